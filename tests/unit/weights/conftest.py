"""Golden models in the authors' names, for the tests of weight files."""
import pytest

from tests.support.golden_models import part


@pytest.fixture(scope="package")
def full(golden):
    """{name: array} of an autoencoder."""
    return part(golden("pretrain_tiny"), "state/")


@pytest.fixture(scope="package")
def classifier(golden):
    """{name: array} of a classifier on the class token."""
    return part(golden("finetune_tiny"), "cls_token/state/")


@pytest.fixture(scope="package")
def finetuned(golden):
    """{name: array} of a classifier on the mean of the patches."""
    return part(golden("finetune_tiny"), "global_pool/state/")

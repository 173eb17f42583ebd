"""The quickstart's pretraining on a data set with a poisoned image, for tests."""
from ...projects.MAE.configs.quickstart_pretraining import *
from tests.support.poisoned import PoisonedDataset

dataloader.train.dataset[0]._target_ = PoisonedDataset

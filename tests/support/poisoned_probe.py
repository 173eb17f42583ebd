"""The quickstart's linear probe on a data set with a poisoned image, for tests."""
from ...projects.MAE.configs.quickstart_linprobe import *
from tests.support.poisoned import PoisonedClassification

dataloader.train.dataset[0]._target_ = PoisonedClassification

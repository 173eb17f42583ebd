"""The quickstart's pretraining on a data set that fails, for tests."""
from ...projects.MAE.configs.quickstart_pretraining import *
from tests.support.failing import FailingDataset

dataloader.train.dataset[0]._target_ = FailingDataset

"""The quickstart's pretraining on a data set that hangs, for tests."""
from ...projects.MAE.configs.quickstart_pretraining import *
from tests.support.sleeping import SleepingDataset

dataloader.train.dataset[0]._target_ = SleepingDataset
dataloader.test[0].dataset._target_ = SleepingDataset

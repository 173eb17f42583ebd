"""The quickstart's probe on validation data that hangs, for tests."""
from ...projects.MAE.configs.quickstart_linprobe import *
from tests.support.sleeping import SleepingClassification

dataloader.test[0].dataset._target_ = SleepingClassification

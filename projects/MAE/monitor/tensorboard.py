"""TensorBoard's event files, written with tensorboardX's formats.

Its `SummaryWriter` writes from a thread, which a full disk ends with a traceback; a few records later the
training thread waits for it for ever.
"""
import os
import socket
import struct
import time

from projects.MAE.utils.appended_file import AppendedFile
from projects.MAE.utils.disk import refusals


class TensorBoard:
    """A new event file in `folder`, which is made where it is missing.

    A resumed run takes the place of what one that broke off wrote after `start_iter`.
    """

    def __init__(self, folder, start_iter=0):
        from projects.MAE.runtime.compat import without_torch

        with without_torch():
            from tensorboardX import record_writer, summary
            from tensorboardX.proto import event_pb2

        self.summary, self.events, self.checksum = summary, event_pb2, record_writer.masked_crc32c
        with refusals(os.path.dirname(folder)):
            os.makedirs(folder, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self.file = AppendedFile(os.path.join(folder, name))
        self._add(file_version="brain.Event:2")
        if start_iter:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(step=start_iter + 1, session_log=start)

    def scalars(self, group, iteration, values):
        for name, value in values.items():
            # TensorBoard has no @ in names: Acc@1 is Acc_1 there.
            scalar = self.summary.scalar(f"{group}/{name.replace('@', '_')}", value)
            self._add(step=iteration, summary=scalar)

    def image(self, name, pixels, iteration):
        self._add(step=iteration, summary=self.summary.image(name, pixels, dataformats="HWC"))

    def close(self):
        self.file.close()

    def _add(self, **fields):
        """Write an event as a record: its length and itself, each with a checksum."""
        data = self.events.Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        checksums = [struct.pack("<I", self.checksum(part)) for part in (length, data)]
        self.file.add(length + checksums[0] + data + checksums[1])

"""What is changed in OneFlow takes effect."""
import subprocess
import sys

THREADS_OF_A_GRAPH = """
import oneflow as flow
from oneflow.framework.session_context import GetDefaultSession
from projects.MAE.utils.compat import compute_on_one_thread

class Double(flow.nn.Graph):
    def build(self, x):
        return x + x

compute_on_one_thread()
assert Double()(flow.ones(2)).tolist() == [2, 2]
print("threads", GetDefaultSession().resource.cpu_device_num)
"""


def test_a_graph_computes_on_one_thread():
    # A setting made before OneFlow's session began was replaced by the number of processors.
    done = subprocess.run(
        [sys.executable, "-c", THREADS_OF_A_GRAPH], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.split()[-2:] == ["threads", "1"]

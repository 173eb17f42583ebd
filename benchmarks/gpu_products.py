"""Matrix products of cuBLASLt with bias and GELU at their ends, on one GPU beside PyTorch's."""
import ctypes

from benchmarks.gpu_device import find_library
from benchmarks.gpu_timing import F, I, L, error, table, timed, turn


class CublasLt:
    """A product of row-major matrices by cuBLASLt: y [m, n] = x [m, k] w [k, n], or of x^T.

    Numbers are those of cublasLt.h.
    """

    EPILOGUES = {"plain": 1, "bias": 4, "gelu bias": 36, "gelu aux bias": 164, "bgrad": 256}

    def __init__(self):
        import torch

        self.lib, self.handle = (
            ctypes.CDLL(find_library("libcublasLt.so.1[0-9]")),
            ctypes.c_void_p(),
        )
        self.ok(self.lib.cublasLtCreate(ctypes.byref(self.handle)))
        self.workspace = torch.empty(32 << 20, dtype=torch.uint8, device="cuda")

    def ok(self, status):
        if status:
            raise RuntimeError(f"cublasLt status {status}")

    def layout(self, matrix):
        """Of a row-major tensor, seen column by column."""
        kind = {"torch.float32": 0, "torch.float16": 2, "torch.bfloat16": 14}[str(matrix.dtype)]
        found, (r, c) = ctypes.c_void_p(), matrix.shape
        self.ok(
            self.lib.cublasLtMatrixLayoutCreate(
                ctypes.byref(found), kind, ctypes.c_uint64(c), ctypes.c_uint64(r), ctypes.c_int64(c)
            )
        )
        return found

    def calls(
        self, x, w, y, transposed=False, epilogue="plain", bias=None, aux=None, residual=None
    ):
        """A function for each algorithm that cuBLASLt suggests, its first choice first."""
        import torch

        def pointer(t):
            return ctypes.c_void_p(t.data_ptr())

        desc, preference = ctypes.c_void_p(), ctypes.c_void_p()
        self.ok(self.lib.cublasLtMatmulDescCreate(ctypes.byref(desc), 68, 0))

        def put(attribute, value):
            self.ok(
                self.lib.cublasLtMatmulDescSetAttribute(
                    desc, attribute, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))
                )
            )

        put(4, I(1 if transposed else 0))  # TRANSB
        put(7, I(self.EPILOGUES[epilogue]))
        if bias is not None:
            put(8, pointer(bias))
            put(
                26,
                I({"torch.float32": 0, "torch.float16": 2, "torch.bfloat16": 14}[str(bias.dtype)]),
            )
        if aux is not None:
            put(11, pointer(aux))
            put(12, L(aux.shape[1]))
        self.ok(self.lib.cublasLtMatmulPreferenceCreate(ctypes.byref(preference)))
        room = ctypes.c_size_t(self.workspace.numel())
        self.ok(
            self.lib.cublasLtMatmulPreferenceSetAttribute(
                preference, 1, ctypes.byref(room), ctypes.c_size_t(8)
            )
        )
        a, b, d = self.layout(w), self.layout(x), self.layout(y)
        results, returned = (ctypes.c_char * (96 * 8))(), ctypes.c_int()
        self.ok(
            self.lib.cublasLtMatmulAlgoGetHeuristic(
                self.handle, desc, a, b, d, d, preference, 8, results, ctypes.byref(returned)
            )
        )
        one, zero = F(1), F(0 if residual is None else 1)
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)

        def call(i):
            algorithm = ctypes.byref(results, 96 * i)

            def run():
                c = y if residual is None else residual
                self.ok(
                    self.lib.cublasLtMatmul(
                        self.handle,
                        desc,
                        ctypes.byref(one),
                        pointer(w),
                        a,
                        pointer(x),
                        b,
                        ctypes.byref(zero),
                        pointer(c),
                        d,
                        pointer(y),
                        d,
                        algorithm,
                        pointer(self.workspace),
                        ctypes.c_size_t(self.workspace.numel()),
                        stream,
                    )
                )

            return run

        return [call(i) for i in range(returned.value)]


def products():
    with turn():
        product_table()


def product_table():
    import torch

    lt, found, half = CublasLt(), [], torch.float16
    torch.manual_seed(0)
    shapes = [
        (12800, 768, 2304),
        (12800, 768, 768),
        (12800, 768, 3072),
        (12800, 3072, 768),
        (50432, 512, 1536),
        (50432, 512, 2048),
        (50432, 2048, 512),
        (25216, 768, 3072),
    ]
    for m, k, n in shapes:
        x, w, dy = (
            torch.randn(*s, device="cuda", dtype=half) * 0.1 for s in ((m, k), (k, n), (m, n))
        )
        bias, dbias = torch.randn(n, device="cuda", dtype=half), torch.empty(
            n, device="cuda", dtype=half
        )
        y, aux, dw = torch.empty_like(dy), torch.empty_like(dy), torch.empty_like(w)
        wide, residual = (torch.zeros(m, n, device="cuda") for _ in range(2))
        dw_wide, b32 = torch.empty(k, n, device="cuda"), bias.float()
        jobs = {
            "plain": dict(x=x, w=w, y=y),
            "bias": dict(x=x, w=w, y=y, epilogue="bias", bias=bias),
            "gelu bias": dict(x=x, w=w, y=y, epilogue="gelu bias", bias=bias),
            "gelu aux": dict(x=x, w=w, y=y, epilogue="gelu aux bias", bias=bias, aux=aux),
            "float y": dict(x=x, w=w, y=wide),
            "float y += , bias": dict(
                x=x, w=w, y=wide, epilogue="bias", bias=b32, residual=residual
            ),
            "dw": dict(x=x, w=dy, y=dw, transposed=True),
            "dw float": dict(x=x, w=dy, y=dw_wide, transposed=True),
            "dw, dbias": dict(x=x, w=dy, y=dw, transposed=True, epilogue="bgrad", bias=dbias),
        }
        row = [f"{m},{k},{n}"]
        for name, job in jobs.items():
            try:
                calls = lt.calls(**job)
                times = [timed([c], 0.01) for c in calls]
                rate = 2 * m * k * n / 1e6 / min(times)
                row.append(
                    f"{times[0]:.0f}/{min(times):.0f}"
                    + (f" ({rate:.0f})" if name == "plain" else "")
                )
                print(row[0], name, [round(t, 1) for t in times], flush=True)
            except RuntimeError as e:
                row.append(str(e)[-12:])
        found.append(row)
        if len(found) == 1:
            which_gelu(lt, x, w, bias)
    table("cuBLASLt, us: first choice/best of 8 (TFLOP/s)", ["m,k,n", *jobs], found)


def which_gelu(lt, x, w, bias):
    """Whether cuBLASLt's GELU is the tanh approximation."""
    import torch

    y = torch.empty(x.shape[0], w.shape[1], device="cuda", dtype=x.dtype)
    w, bias = w * 0, torch.linspace(-3, 3, w.shape[1], device="cuda").to(x.dtype)
    lt.calls(x, w, y, epilogue="gelu bias", bias=bias)[0]()
    b, gelu = bias.double(), torch.nn.functional.gelu
    exact, tanh = (y[0] - gelu(b)).abs().max(), (y[0] - gelu(b, approximate="tanh")).abs().max()
    print(f"= cuBLASLt's GELU differs from erf's by {exact:.1e}, from tanh's by {tanh:.1e}")
    y = torch.empty_like(y)
    plain = torch.empty_like(y)
    lt.calls(x, w + 0.01, plain)[0]()
    print("= a plain product's error", f"{error(plain, x.double() @ (w.double() + 0.01)):.1e}")

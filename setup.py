"""Package metadata. `tools/setup.sh` installs what stands here at the versions of constraints.txt."""
from setuptools import find_namespace_packages, setup

setup(
    name="mae-oneflow",
    version="0.1.0",
    description="Masked Autoencoders on OneFlow, as a LiBai project",
    license="Apache-2.0",
    python_requires=">=3.8,<3.11",
    packages=find_namespace_packages(include=["projects.*"]),
    package_data={"projects.MAE.report": ["page.css"]},
    install_requires=[
        "oneflow==0.9.0",
        "libai==0.1.1",
        "flowvision==0.1.0",
        # `import oneflow` needs these two CUDA 11 libraries on every machine.
        "nvidia-cublas-cu11==11.10.3.66",
        "nvidia-cudnn-cu11==8.5.0.96",
        "numpy>=1.21,<1.24",  # LiBai 0.1.1 uses np.float
        "omegaconf>=2.1",
        "hydra-core>=1.1",
        "pillow>=10.1",  # its own font in any size
        "safetensors>=0.3",
        "tqdm>=4.60",
        "tensorboardX>=2.5",  # writes event files; no TensorBoard is needed for that
        "mkl>=2021",  # preloaded on the CPU in place of the BLAS inside OneFlow
        "scipy-openblas32>=0.3.27",  # the faster one on AMD's processors
        "scikit-learn>=1.0",  # the digits of the quickstart
    ],
    extras_require={
        "pytorch": ["torch==1.13.1"],
        # For GPUs from compute capability 9.0 on: what compiles csrc/cuda, and a cuBLAS with code
        # for them. tools/setup.sh installs both where there is one.
        "gpu": ["nvidia-cuda-nvrtc-cu12==12.9.86", "nvidia-cublas-cu11==11.11.3.6"],
        "viz": ["tensorboard"],  # shows the event files
        "wandb": ["wandb>=0.13,<0.19"],  # later ones need a protobuf with which OneFlow does not start
        "test": ["pytest>=7", "pytest-xdist>=3"],
        # The independent implementations that tests marked `oracle` compare with.
        "oracle": ["torch==1.13.1", "torchvision==0.14.1", "timm>=1.0", "transformers==4.49.0"],
    },
)

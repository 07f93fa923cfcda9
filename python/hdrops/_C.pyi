__version__: str
compiler: str
built_with_cuda: bool
cuda_version: str
cuda_architectures: str
cpu_levels: str

def cpu_level() -> str: ...
def best_cpu_level() -> str: ...

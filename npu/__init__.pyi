# What `import npu` offers, and where it is from. `lazy_loader` reads this file, and so do type checkers.

from .arch.config import PRESETS as PRESETS, NpuConfig as NpuConfig, get_config as get_config
from .arch.isa import Instruction as Instruction, Status as Status, disassemble as disassemble
from .compiler.image import Image as Image
from .compiler.precision import PRECISIONS as PRECISIONS
from .errors import NpuError as NpuError
from .machine.levels import BLOCKS as BLOCKS, LEVELS as LEVELS
from .machine.npu import Npu as Npu, SimulationError as SimulationError
from .machine.simulation import Machine as Machine
from .runtime.chat import Conversation as Conversation
from .runtime.device import Device as Device, SimOptions as SimOptions
from .runtime.images import compile as compile, load as load
from .runtime.report import RunReport as RunReport
from .runtime.sampling import Sampling as Sampling
from .runtime.session import Session as Session
from .runtime.text import TextCodec as TextCodec
from .tools.compare import ComparisonReport as ComparisonReport, compare as compare
from .tools.diff import diff as diff
from .tools.fetch import ModelEntry as ModelEntry, fetch as fetch, list_models as list_models
from .tools.hardware import synthesise as synthesise, translate as translate
from .tools.random_model import random_model as random_model
from .version import __version__ as __version__

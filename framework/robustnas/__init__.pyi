from robustnas.pipeline import run_recipe as run_recipe
from robustnas.table.opened import Run as Run
from robustnas.table.opened import open as open
from robustnas.table.several import compare as compare
from robustnas.table.tabulated import Table as Table

__version__: str
MOVED: dict[str, str]
HANDED_OUT: dict[str, str]

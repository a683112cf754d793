"""Every exception robustnas raises on purpose, and the exit status each one means::

    RobustnasError           1   the run itself failed
      RunError               1   divergence, a full disk, a plugin that broke its promise while running
        DiskFullError        1   no room for a result; everything already done is intact
        DeviceLostError      1   the device, or another process of the run, no longer answers
        LeaseLostError       1   another process has taken over a stage that this one was at
        VerdictError         1   two evaluations of one image contradict each other
      InputError             2   something given to us is wrong; the message says where and what would do
        RecipeError          2   faults of a recipe file, all of them
        PluginError          2   a plugin that is unknown, does not import, or breaks its contract
        OptionError          2   an option of a plugin that cannot be honoured
        DataError            2   a dataset folder that is missing, empty or broken
          MissingDataError   2   data that is not on this machine, or not in this place
        DeviceError          2   a device this machine does not have
        RunDirectoryError    2   a run directory that belongs to another experiment, is busy or damaged
        UnsupportedOpError   2   a network uses an operation that no bound rule covers

Messages say where, what was found, what would do and what to try next.
"""

from __future__ import annotations


class RobustnasError(Exception):
    """Base of all.

    Attributes:
        exit_status: what the command line returns.
        shared: all processes of the run raise it, at the same place (`runtime.processes.Processes.run_together`).
    """

    exit_status = 1
    shared = False


class RunError(RobustnasError):
    """The run failed although its input was good."""


class DivergedError(RunError):
    """A loss, a score or a gradient is not finite; the last good checkpoint is intact."""


class DiskFullError(RunError):
    """There is no room on the disk; everything already done is intact."""


class DeviceLostError(RunError):
    """The device, or another process of the run, no longer answers; everything already done is intact."""


class LeaseLostError(RunError):
    """Another process has taken over what this one was at; what it did so far is whole."""


class VerdictError(RunError):
    """Attack, certificate and clean prediction of one image contradict each other; the message names the image."""


class InputError(RobustnasError):
    """Something the user gave is wrong."""

    exit_status = 2


class RecipeError(InputError):
    """All faults of a recipe; each reads `file:line:column: key.path: what was found; what would do`."""

    def __init__(self, faults: list[str]):
        self.faults = list(faults)
        super().__init__("\n".join(self.faults))


class PluginError(InputError):
    """A plugin is unknown, registered twice, does not import, or does not keep its contract."""


class OptionError(InputError):
    """A plugin's option cannot be honoured in this combination (a norm an attack does not know, say)."""


class DataError(InputError):
    """A dataset is missing, empty or broken; the message says what to do."""


class MissingDataError(DataError):
    """Data is not here: a plan can be made without it, a run cannot."""


class DeviceError(InputError):
    """The device asked for does not exist here."""


class RunDirectoryError(InputError):
    """A run directory belongs to another experiment, is in use, or is damaged."""


class UnsupportedOpError(InputError):
    """A network uses an operation without a bound rule."""

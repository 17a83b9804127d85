"""Every error that eco_ray raises on purpose, and the exit code that each one means.

    EcoRayError            1  the job or check failed, or data is damaged
      MixedKindsError      1  carbon intensities of different kinds (average, marginal, ...) were put together
      DamagedError         1  a file was changed or cut, or is not what it says it is
      DeviceFullError      1  a device has no memory left for what was asked of it
      UsageError           2  a file, option or setting is wrong
      InfeasibleError      3  a deadline, capacity or residency that no plan can meet
      NotFoundError        4  no such job, model, node or zone
      NotAllowedError      5  refused: permission, token, read-only
      UnreachableError     6  no cluster, controller or database there
        NoClusterError     6  none was ever named: no record, no address

A message gives the value, the limit and the cure.
"""

from __future__ import annotations


class EcoRayError(Exception):
    """Base class: something was checked and did not hold."""

    #: process exit code of the command line
    exit_code = 1


class MixedKindsError(EcoRayError, TypeError):
    """Carbon intensities of different kinds were to be added, compared or planned together."""


class DamagedError(EcoRayError):
    """Data was changed or cut on its way, or is not in the format that it claims."""


class DeviceFullError(EcoRayError):
    """A device has no memory left for a model, or for what was asked of it; what was taken for that is given back."""


class UsageError(EcoRayError):
    """A file, option or setting is wrong; the message says where and how to mend it."""

    exit_code = 2


class InfeasibleError(EcoRayError):
    """No plan can meet the deadline, the capacity or the data residency that was asked for."""

    exit_code = 3


class NotFoundError(EcoRayError):
    """No such job, model, node or zone."""

    exit_code = 4


class NotAllowedError(EcoRayError):
    """Refused: a missing permission or token, or a read-only place."""

    exit_code = 5


class UnreachableError(EcoRayError):
    """No cluster, controller or database answers at the address."""

    exit_code = 6


class NoClusterError(UnreachableError):
    """No cluster was started here and no address was given: nothing is known that could have answered."""

"""The options of an Apache Beam pipeline, for both preparation and prediction."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from personlab_keras.errors import InputError
from personlab_keras.io.processes import silent_standard_error

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


def beam_options(options: Sequence[str]) -> PipelineOptions:
    """Parses the options of a Beam pipeline, written as on Beam's own command lines.

    Raises:
        InputError: Beam is not installed, or an option is invalid. (Beam passes unknown options on
            to the runner.)
    """
    try:
        with silent_standard_error():  # Beam lists file systems without a package
            from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise InputError(
            "--beam requires Apache Beam: pip install 'personlab-keras[beam]'"
        ) from None
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = PipelineOptions(list(options))
            parsed.get_all_options()
    except SystemExit:  # raised by argparse
        raise InputError(
            f"invalid pipeline options: {complaint.getvalue().strip().splitlines()[-1]}"
        ) from None
    return parsed

"""The options of an Apache Beam pipeline, which preparation and prediction both take."""

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
    """The options of a Beam pipeline, given as Beam's command lines take them.

    Raises:
        InputError: Beam is not installed, or cannot read them. (What it does not know it hands to
            the runner.)
    """
    try:
        with silent_standard_error():  # it names the file systems whose packages are not there
            from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise InputError("--beam takes Apache Beam: pip install 'personlab-keras[beam]'") from None
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = PipelineOptions(list(options))
            parsed.get_all_options()
    except SystemExit:  # as argparse ends a command
        raise InputError(
            f"options of the pipeline: {complaint.getvalue().strip().splitlines()[-1]}"
        ) from None
    return parsed

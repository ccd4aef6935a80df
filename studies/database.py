"""Optuna's storage in a database, which waits for a server that is temporarily down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy.exc import InterfaceError, OperationalError

from ablate.models.errors import InputError

from .redaction import brief, redact, scrub

PATIENCE = 300.0
"""Seconds to keep retrying a call while the server does not answer; training continues meanwhile."""
PAUSE = 2.0
logger = logging.getLogger(__name__)


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    """A storage method that retries for `PATIENCE` seconds while the server does not answer."""

    @wraps(method)
    def call(self: Database, *words: Any, **fields: Any) -> Any:
        began, tries = time.monotonic(), 0
        while True:
            try:
                return method(self, *words, **fields)
            except UpdateFinishedTrialError:
                if not tries:
                    raise
                return None  # the server had taken it before the connection broke
            except (StorageInternalError, OperationalError) as error:
                cause = error.__cause__ if isinstance(error, StorageInternalError) else error
                if not isinstance(cause, OperationalError | InterfaceError):
                    raise
                why = scrub(brief(cause), self.url)
                if time.monotonic() - began > PATIENCE:
                    raise InputError(
                        f"{redact(self.url)} has not answered for {PATIENCE:.0f} s: {why}; checkpoints "
                        "are kept, and the same command continues the runs"
                    ) from None
                if not tries:
                    logger.warning("%s does not answer, trying again: %s", redact(self.url), why)
                tries += 1
                time.sleep(PAUSE)

    return call


class Database(RDBStorage):
    """Optuna's `RDBStorage`, which survives dropped connections and restarts of the server.

    Args:
        url: URL of the database.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, engine_kwargs={"pool_pre_ping": True})


for _name in (
    *("create_new_study", "get_study_id_from_name", "get_all_trials", "get_trial", "create_new_trial"),
    *("get_trial_id_from_study_id_trial_number", "get_trial_number_from_id", "set_trial_user_attr"),
    *("set_trial_intermediate_value", "set_trial_state_values", "set_study_system_attr"),
):
    setattr(Database, _name, _patient(getattr(RDBStorage, _name)))

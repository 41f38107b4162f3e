"""Methods of vLLM's workers for the tests of saving by rank."""

from __future__ import annotations

import os

from ckptfmt.vllm import WorkerExtension
from tests.vllm import engine


class Extension(engine.Extension, WorkerExtension):
    """For ``worker_extension_cls``."""

    def tests_die_while_saving(self, target: str) -> None:
        """Save, and be killed when both ranks have written what they have."""
        from ckptfmt.vllm import rank_state_saving

        rank_state_saving.saving.join_ranks = lambda *_, **__: os._exit(9)
        self.ckptfmt_save_rank_state(target)

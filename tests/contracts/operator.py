"""The contract of ``ports.Operator``, for the same process and for the control socket."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from agent.model.errors import RefusedError
from agent.model.ports import Operator


@dataclass
class OperatorSetup:
    """An operator, path and episode id of a recording that it knows, and an asset of the robot."""

    operator: Operator
    path: str
    episode: str
    asset: str


class OperatorContract:
    """The tests. A subclass provides the fixture ``operator_setup``."""

    @pytest.fixture
    def operator_setup(self) -> OperatorSetup:
        raise NotImplementedError

    def test_status_is_json(self, operator_setup: OperatorSetup) -> None:
        status = operator_setup.operator.status()
        assert json.loads(json.dumps(status)) == status
        assert {"version", "gate", "uploads"} <= set(status)

    def test_each_target_has_its_answer_in_turn(self, operator_setup: OperatorSetup) -> None:
        answers = operator_setup.operator.resync(["unknown", operator_setup.path], "looked bad")
        assert [(answer.target, answer.status) for answer in answers] == [
            ("unknown", "not_found"),
            (operator_setup.path, "accepted"),
        ]
        assert answers[0].message
        assert answers[1].episode_id == operator_setup.episode

    def test_asked_again_it_is_queued_already(self, operator_setup: OperatorSetup) -> None:
        assert [
            answer.status for answer in operator_setup.operator.resync([operator_setup.episode], "")
        ] == ["accepted"]
        assert [
            answer.status for answer in operator_setup.operator.resync([operator_setup.episode], "")
        ] == ["already_queued"]

    def test_what_is_queued_can_be_put_ahead(self, operator_setup: OperatorSetup) -> None:
        operator_setup.operator.resync([operator_setup.path], "")
        known, unknown = operator_setup.operator.first([operator_setup.path, "unknown"])
        assert known.status in ("accepted", "already_queued")
        assert unknown.status == "not_found"

    def test_nothing_failed_with_a_code_that_nobody_knows(
        self, operator_setup: OperatorSetup
    ) -> None:
        assert list(operator_setup.operator.resync_failed("no_such_code", "")) == []

    def test_a_target_may_be_any_bytes(self, operator_setup: OperatorSetup) -> None:
        name = "/recordings/\udcff\udcfe é.mcap"
        (answer,) = operator_setup.operator.resync([name], "also \udcff here")
        assert (answer.target, answer.status) == (name, "not_found")

    def test_pause_and_resume_may_be_asked_twice(self, operator_setup: OperatorSetup) -> None:
        for _ in range(2):
            operator_setup.operator.pause()
        for _ in range(2):
            operator_setup.operator.resume()
        operator_setup.operator.rescan()

    def test_an_asset_is_bound_and_unbound(self, operator_setup: OperatorSetup) -> None:
        assert operator_setup.operator.assets() == {}
        for _ in range(2):
            operator_setup.operator.set_asset("arm-7", operator_setup.asset)
        assert operator_setup.operator.assets() == {"arm-7": operator_setup.asset}
        operator_setup.operator.unset_asset("arm-7")
        assert operator_setup.operator.assets() == {"arm-7": ""}

    def test_a_refusal_says_why_and_what_to_do(self, operator_setup: OperatorSetup) -> None:
        with pytest.raises(RefusedError) as refused:
            operator_setup.operator.set_asset("arm-7", "")
        assert "empty" in refused.value.message
        assert refused.value.hint
        assert operator_setup.operator.assets() == {}

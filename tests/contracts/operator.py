"""What every Operator does, asked in its own process or over the socket."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from agent.model.errors import RefusedError
from agent.model.ports import Operator


@dataclass
class OperatorSetup:
    """An operator to ask, the names of one recording that it knows, and of a robot's asset."""

    operator: Operator
    path: str
    episode: str
    asset: str


class OperatorContract:
    """Subclasses give the fixture ``desk``."""

    @pytest.fixture
    def desk(self) -> OperatorSetup:
        raise NotImplementedError

    def test_status_is_json(self, desk: OperatorSetup) -> None:
        status = desk.operator.status()
        assert json.loads(json.dumps(status)) == status
        assert {"version", "gate", "uploads"} <= set(status)

    def test_each_target_has_its_answer_in_turn(self, desk: OperatorSetup) -> None:
        told = desk.operator.resync(["nobody", desk.path], "looked bad")
        assert [(answer.target, answer.status) for answer in told] == [
            ("nobody", "not_found"),
            (desk.path, "accepted"),
        ]
        assert told[0].message
        assert told[1].episode_id == desk.episode

    def test_asked_again_it_is_queued_already(self, desk: OperatorSetup) -> None:
        assert [answer.status for answer in desk.operator.resync([desk.episode], "")] == [
            "accepted"
        ]
        assert [answer.status for answer in desk.operator.resync([desk.episode], "")] == [
            "already_queued"
        ]

    def test_what_is_queued_can_be_put_ahead(self, desk: OperatorSetup) -> None:
        desk.operator.resync([desk.path], "")
        known, unknown = desk.operator.first([desk.path, "nobody"])
        assert known.status in ("accepted", "already_queued")
        assert unknown.status == "not_found"

    def test_nothing_failed_with_a_code_that_nobody_knows(self, desk: OperatorSetup) -> None:
        assert list(desk.operator.resync_failed("no_such_code", "")) == []

    def test_a_target_may_be_any_bytes(self, desk: OperatorSetup) -> None:
        name = "/recordings/\udcff\udcfe é.mcap"
        (told,) = desk.operator.resync([name], "also \udcff here")
        assert (told.target, told.status) == (name, "not_found")

    def test_pause_and_resume_may_be_asked_twice(self, desk: OperatorSetup) -> None:
        for _ in range(2):
            desk.operator.pause()
        for _ in range(2):
            desk.operator.resume()
        desk.operator.rescan()

    def test_an_asset_is_bound_and_unbound(self, desk: OperatorSetup) -> None:
        assert desk.operator.assets() == {}
        for _ in range(2):
            desk.operator.set_asset("arm-7", desk.asset)
        assert desk.operator.assets() == {"arm-7": desk.asset}
        desk.operator.unset_asset("arm-7")
        assert desk.operator.assets() == {"arm-7": ""}

    def test_a_refusal_says_why_and_what_to_do(self, desk: OperatorSetup) -> None:
        with pytest.raises(RefusedError) as refused:
            desk.operator.set_asset("arm-7", "")
        assert "empty" in refused.value.message
        assert refused.value.hint
        assert desk.operator.assets() == {}

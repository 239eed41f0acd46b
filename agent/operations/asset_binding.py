"""Binds robots to assets, and checks which asset a robot may have."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from agent.model.errors import CloudError, RefusedError, judge
from agent.model.ports import Assets, Profiles
from agent.model.printable import shell_word

_log = logging.getLogger(__name__)

_ID_MAX_CHARACTERS = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Bindings:
    """Binds robots to assets and unbinds them.

    The running agent and the commands use this class, so the rules are the same in both.

    Any thread may call the methods.
    """

    def __init__(self, assets: Assets, profiles: Profiles | None) -> None:
        """Keep bindings in ``assets``; without ``profiles`` of a platform any asset will do."""
        self._assets = assets
        self._profiles = profiles

    def known(self) -> Mapping[str, str]:
        """Return robot id to asset id as it is in force; "" is a robot unbound.

        Raises WaitingError("asset_file").
        """
        return self._assets.known()

    def bind(self, robot: str, asset: str) -> None:
        """Bind a robot to an asset; durable on return. The same asset again is no change.

        Raises:
            RefusedError: The rules forbid this; the text says why.
            CloudError: "profile_file", the device profile file can't be used.
            WaitingError: "asset_file", the file of bindings can't be used.
            OSError: The binding can't be written.
        """
        _check("a robot's id", robot)
        _check("an asset id", asset)
        with self._assets.change() as own:
            known = self._assets.known()
            if known.get(robot) != asset:
                self._check_profile(asset)
                for other, its_asset in known.items():
                    if its_asset == asset:
                        raise RefusedError(
                            f"asset {asset} belongs to robot {other}",
                            hint=f"keystone-agent asset unset {shell_word(other)}, "
                            "if it does not any more",
                        )
            own[robot] = asset
        _log.info("robot %s is asset %s", robot, asset, extra={"event": "asset_set"})

    def unbind(self, robot: str) -> None:
        """Leave the robot known but bound to nothing, so that its recordings wait.

        Raises what :meth:`bind` raises.
        """
        _check("a robot's id", robot)
        with self._assets.change() as own:
            own[robot] = ""
        _log.info("robot %s is bound to no asset", robot, extra={"event": "asset_unset"})

    def _check_profile(self, asset: str) -> None:
        """Raise RefusedError unless the platform's profile of the asset can be used."""
        if self._profiles is None:
            return
        try:
            profile = self._profiles.load().get(asset)
        except CloudError as error:
            error.hint = error.hint or judge(error).hint
            raise
        if profile is None:
            raise RefusedError(
                f"the device profile file has no asset {asset}",
                hint="put its profile into the device profile file first, or name another asset",
            )
        if not profile.ready:
            raise RefusedError(
                f"the profile of asset {asset} has no key or no usable tags",
                hint="complete apiKey and tags in the device profile file first",
            )


def _check(what: str, value: str) -> None:
    """Raise RefusedError unless ``value`` can be an id; ``what`` names the id in the text."""
    if not value.strip():
        raise RefusedError(
            f"{what} can't be empty", hint="name one, or use keystone-agent asset unset ROBOT"
        )
    if len(value) > _ID_MAX_CHARACTERS:
        raise RefusedError(
            f"{what} has at most {_ID_MAX_CHARACTERS} characters, this has {len(value)}"
        )
    if _CONTROL.search(value):
        raise RefusedError(f"{what} can't have control characters")

"""Tokens and leases.

The tests show that only one refresh runs at a time, before their end or on demand.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from agent.cloud.credentials import Credentials, SessionKeys
from agent.model.errors import CloudError
from agent.model.ports import Gateway
from agent.model.values import AccessToken, CredentialLease
from tests.contracts.gateway import LOG
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.gateway import PROFILE, FakeGateway
from tests.harness.fakes.store import FakeStore


def hidden(*_: str, lasting: bool = False) -> None:
    """Take a secret that must not appear in logs. These tests write no logs."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def gateway(clock: FakeClock) -> FakeGateway:
    return FakeGateway(FakeStore(), clock)


@pytest.fixture
def credentials(gateway: FakeGateway, clock: FakeClock) -> Credentials:
    return Credentials(gateway, clock, hidden)


def token(credentials: Credentials) -> AccessToken:
    def ask(_: Gateway, token: AccessToken) -> AccessToken:
        return token

    return credentials.call(PROFILE, ask)


def open_session(credentials: Credentials) -> SessionKeys:
    return credentials.keys(
        PROFILE, credentials.call(PROFILE, lambda g, t: g.create(PROFILE, t, LOG))
    )


def test_a_token_is_exchanged_once_and_used_until_its_end(
    credentials: Credentials, gateway: FakeGateway, clock: FakeClock
) -> None:
    first = token(credentials)
    clock.advance(3599)
    assert token(credentials) is first
    clock.advance(1)
    assert token(credentials) is not first
    assert gateway.calls.count("ExchangeCredential") == 2


def test_the_scheduler_renews_a_token_a_minute_before_its_end(
    credentials: Credentials, clock: FakeClock
) -> None:
    open_session(credentials)
    first = token(credentials)
    clock.advance(3539)
    credentials.refresh_due()
    assert token(credentials) is first
    clock.advance(1)
    assert credentials.refresh_due() == []
    assert token(credentials) is not first


def test_nothing_is_refreshed_while_no_session_is_open(
    credentials: Credentials, gateway: FakeGateway, clock: FakeClock
) -> None:
    token(credentials)
    clock.advance(3590)
    assert credentials.refresh_due() == []
    assert gateway.calls.count("ExchangeCredential") == 1


def test_a_part_does_not_wait_for_a_refresh_while_its_lease_is_good(
    credentials: Credentials, gateway: FakeGateway, clock: FakeClock
) -> None:
    keys = open_session(credentials)
    first = keys.current()
    clock.advance(3300)
    began, go_on = threading.Event(), threading.Event()

    def hang(call: str) -> None:
        if call == "ReissueUploadCredentials":
            began.set()
            assert go_on.wait(10)

    gateway.before = hang
    refresh = threading.Thread(target=credentials.refresh_due)
    refresh.start()
    assert began.wait(10)
    assert keys.current() is first
    go_on.set()
    refresh.join()
    assert keys.current() is not first


def test_however_many_ask_at_once_one_token_is_fetched(
    credentials: Credentials, gateway: FakeGateway
) -> None:
    start = threading.Barrier(8)

    def ask() -> AccessToken:
        start.wait()
        return token(credentials)

    with ThreadPoolExecutor(8) as pool:
        tokens = [future.result() for future in [pool.submit(ask) for _ in range(8)]]
    assert len({id(one) for one in tokens}) == 1
    assert gateway.calls.count("ExchangeCredential") == 1


def test_a_refused_token_is_replaced_and_the_call_made_once_more(
    credentials: Credentials, gateway: FakeGateway
) -> None:
    token(credentials)
    gateway.expire_tokens()
    assert open_session(credentials).session.logical_upload_id
    gateway.before = lambda _call: gateway.expire_tokens()
    with pytest.raises(CloudError, match="UNAUTHENTICATED"):
        open_session(credentials)


def test_a_profile_that_changed_gets_a_token_of_its_own(
    credentials: Credentials, gateway: FakeGateway
) -> None:
    first = token(credentials)
    changed = replace(PROFILE, tags={"site": "elsewhere"})
    assert credentials.call(changed, lambda _g, t: t) is not first
    assert gateway.calls.count("ExchangeCredential") == 2


@pytest.mark.parametrize(("life", "refreshed_at"), [(3600, 3270), (900, 675), (100, 70), (20, 10)])
def test_a_lease_is_renewed_in_its_last_quarter_within_sensible_bounds(
    credentials: Credentials,
    gateway: FakeGateway,
    clock: FakeClock,
    life: float,
    refreshed_at: float,
) -> None:
    gateway.lease_seconds = life
    keys = open_session(credentials)
    first = keys.current()
    clock.advance(refreshed_at - 1)
    credentials.refresh_due()
    assert keys.current() is first
    clock.advance(1)
    assert credentials.refresh_due() == []
    assert keys.current() is not first
    assert keys.refreshes == 1


def test_a_lease_that_was_refused_is_renewed_once_however_many_noticed(
    credentials: Credentials,
) -> None:
    keys = open_session(credentials)
    refused = keys.current()
    for _ in range(4):
        keys.renew(refused)
    assert keys.refreshes == 1


@pytest.mark.parametrize("wrong", [0.0, 4_000_000_000.0])
def test_a_clock_that_is_wrong_never_ends_a_lease_by_itself(
    credentials: Credentials, clock: FakeClock, wrong: float
) -> None:
    grant = credentials.call(PROFILE, lambda g, t: g.create(PROFILE, t, LOG))
    clock.set_now(wrong)
    keys = credentials.keys(PROFILE, grant)
    assert keys.current().deadline is None
    clock.advance(100_000)
    assert credentials.refresh_due() == []
    assert keys.refreshes == 0


def test_a_lease_is_judged_by_the_clouds_clock_where_that_is_known(
    gateway: FakeGateway, clock: FakeClock
) -> None:
    # The clock of this robot is 40 years behind.
    clock.set_now(clock.now() - 40 * 365 * 86400)
    behind = 40 * 365 * 86400.0
    gateway.clock = FakeClock(now=clock.now() + behind)
    credentials = Credentials(gateway, clock, hidden, lambda: behind)
    assert open_session(credentials).current().life == pytest.approx(3600)


def test_a_refresh_that_fails_is_told_and_the_old_lease_stays(
    credentials: Credentials, gateway: FakeGateway, clock: FakeClock
) -> None:
    keys = open_session(credentials)
    first = keys.current()
    clock.advance(3300)
    gateway.fail("ReissueUploadCredentials")
    (error,) = credentials.refresh_due()
    assert error.code == "UNAVAILABLE"
    assert keys.current() is first


def test_what_is_released_is_refreshed_no_more(
    credentials: Credentials, gateway: FakeGateway, clock: FakeClock
) -> None:
    keys = open_session(credentials)
    credentials.release(keys)
    assert credentials.shortest_lease() is None
    clock.advance(3300)
    credentials.refresh_due()
    assert "ReissueUploadCredentials" not in gateway.calls


def test_secrets_do_not_show(credentials: Credentials) -> None:
    lease = open_session(credentials).current()
    shown = f"{lease} {lease!r} {token(credentials)!r} {PROFILE!r}"
    for secret in (
        lease.access_key_id,
        lease.secret_access_key,
        lease.session_token,
        PROFILE.api_key,
    ):
        assert secret not in shown


def test_every_secret_is_told_to_those_who_must_hide_it(
    gateway: FakeGateway, clock: FakeClock
) -> None:
    told: list[str] = []
    credentials = Credentials(gateway, clock, lambda *secrets, **_: told.extend(secrets))
    lease = open_session(credentials).current()
    expected = {lease.access_key_id, lease.secret_access_key, lease.session_token, PROFILE.api_key}
    assert expected | {token(credentials).value} <= set(told)


def test_the_advisory_window_is_never_more_than_half_a_life() -> None:
    lease = CredentialLease("key", "secret", "token", 0.0, life=4.0, deadline=4.0)
    assert [lease.due(now) for now in (0.0, 1.9, 2.0, 3.0)] == [False, False, True, True]
    assert [lease.usable(now) for now in (0.0, 3.9, 4.0)] == [True, True, False]

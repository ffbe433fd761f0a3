"""The token that a request carries: taken, or refused with what to send."""

import pytest

from sidecar.bearer_token import TOKEN_CHARACTERS_MAX, NoBearerTokenError, bearer_token

TOKEN = "eyJhbGciOi_-9.eyJzdWIiOiJ4.c2ln"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_token_of_a_service_account_is_taken(scheme: str) -> None:
    assert bearer_token(f"{scheme}  {TOKEN} ") == TOKEN


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN])
def test_a_request_without_one_is_told_what_to_send(given: str | None) -> None:
    with pytest.raises(NoBearerTokenError, match="send 'Authorization: Bearer <service account"):
        bearer_token(given)


@pytest.mark.parametrize(
    "token", ["a.b", "a.b.c.d", "a..c", "ä.b.c", "a.b.c\n.d", f"{'a' * TOKEN_CHARACTERS_MAX}.b.c"]
)
def test_what_is_no_signed_token_is_refused_and_never_shown(token: str) -> None:
    with pytest.raises(NoBearerTokenError, match="characters that are no service account") as told:
        bearer_token(f"Bearer {token}")
    assert token not in str(told.value)

"""Hooks of scripts/schemathesis: credentials, ids that exist, and the refusals that no schema can state."""

import atexit
import collections
import json
import os
import random
import urllib.request
import uuid

import schemathesis

URL, ADMIN = os.environ["STEWARD_URL"], os.environ["STEWARD_ADMIN_TOKEN"]

# Fields with values that only the server can judge. If a well-formed value of these is answered with 400,
# that is correct.
OPAQUE = {
    "pageToken": "a token of this listing, made by the server",
    "lastEventId": "a cursor of this turn, made by the server",
    "Last-Event-ID": "a cursor of this turn, made by the server",
    "route": "a name from the configuration",
    "url": "a URL that the configuration admits; required for push delivery alone",
    "card": "at most 64 KiB of JSON that Postgres stores",
    "endsAt": "a time in the future",
    "argv": "at most 128 KiB together, beginning with the name of a program",
    "env": "at most 128 KiB together",
    "path": "a path inside the sandbox",
}
# Codes with which a well-formed request may be refused, because the reason is the caller or the stored state.
# No schema can state these reasons.
STATE = {
    "ABORTED",
    "AGENT_NOT_PAUSED",
    "AGENT_PAUSED",
    "ALREADY_EXISTS",
    "ERASURE_STARTED",
    "EXEC_KEY_REUSED",
    "FAILED_PRECONDITION",
    "FILE_DENIED",
    "FILE_NOT_FOUND",
    "FILE_NOT_USABLE",
    "IDEMPOTENCY_IN_FLIGHT",
    "IDEMPOTENCY_KEY_REUSED",
    "LIMIT_REACHED",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "RATE_LIMITED",
    "RESOURCE_EXHAUSTED",
    "SANDBOX_BUSY",
    "SANDBOX_NOT_RUNNING",
    "SANDBOX_RESTARTED",
    "SCOPE_EXCEEDED",
    "SUBJECT_FROZEN",
    "TURN_FINAL",
    "TURN_IN_FLIGHT",
    "TURN_QUEUE_FULL",
}
# Number of refusals by status, code and fields, printed at the end.
REFUSALS = collections.Counter()
atexit.register(lambda: print("Refusals:", *(f"{n} x {which}" for which, n in REFUSALS.items()), sep="\n  "))


def call(method, path, token, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    request = urllib.request.Request(URL + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def prepare():
    """Makes an account with one of everything; returns its tokens and ids."""
    account = call("POST", "/v1/accounts", ADMIN, {"name": "schemathesis"})["account"]["accountId"]
    tokens = f"/v1/accounts/{account}/tokens"
    tenant = call("POST", tokens, ADMIN, {"name": "tenant"})
    tenant, own = tenant["secret"], tenant["token"]["tokenId"]
    other = call("POST", tokens, ADMIN, {"name": "other"})["token"]["tokenId"]
    session = call("POST", "/v1/sessions", tenant, {"title": "one"})["session"]["sessionId"]
    turn = call("POST", f"/v1/sessions/{session}/turns", tenant, {"input": "say one"})["turn"]["turnId"]
    sandbox = call("POST", "/v1/sandboxes", tenant, {"sessionId": session})["sandbox"]["sandboxId"]
    made = call("POST", "/v1/agents", tenant, {"name": "agent"})
    poll = {"deliveryMode": "DELIVERY_MODE_POLL"}
    agent = call("POST", "/v1/agents:register", made["enrolment"]["secret"], poll)["secret"]
    ids = {
        "accountId": account,
        "tokenId": other,
        "sessionId": session,
        "turnId": turn,
        "sandboxId": sandbox,
        "agentId": made["agent"]["agentId"],
    }
    return {"tenant": tenant, "agent": agent, "admin": ADMIN}, ids, {own, *ids.values()}


TOKENS, IDS, KEPT = prepare()
OPERATORS = ("/v1/holds", "/v1/dead-letters", "/v1/erasure-ledger")


def caller(path):
    if path in ("/v1/agents:register", "/v1/agents:heartbeat"):
        return "agent"
    return "admin" if path == "/v1/accounts" or path.startswith(OPERATORS) else "tenant"


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Authenticates, and replaces most ids of the path by ids that exist; none of these is removed."""
    case.headers = case.headers or {}
    case.headers["Authorization"] = f"Bearer {TOKENS[caller(case.operation.path)]}"
    # A request with a short timeout in this header would be answered 504, correctly.
    case.headers.pop("x-request-timeout", None)
    for name in case.path_parameters or {}:
        # Schemathesis reuses ids of responses. If a case removed this agent or token, later ones would be
        # refused.
        ends = case.operation.path.endswith(":purge") or case.method.upper() == "DELETE"
        if ends and case.path_parameters[name] in KEPT:
            case.path_parameters[name] = str(uuid.uuid4())
        elif name in IDS and not ends and random.random() < 0.8:
            case.path_parameters[name] = IDS[name]


@schemathesis.check
def refused_for_state_alone(ctx, response, case):
    """A well-formed request is refused only because of the state of the plane."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code < 400:
        return
    problem = response.json()
    fields = [error["field"].split("[")[0].split(".")[0] for error in problem.get("errors", [])]
    REFUSALS[f"{response.status_code} {problem['code']} {','.join(fields)}".strip()] += 1
    if response.status_code == 400:
        assert fields and all(field in OPAQUE for field in fields), problem
    else:
        assert problem["code"] in STATE, problem

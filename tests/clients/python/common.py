"""What the three Python client programs share: a choice of scenario, checks, and record sets.

Each program is called as `python with_X.py SCENARIO HOST:PORT` and leaves with 0 only when every check of the
scenario held. A check that fails raises, so that the trace names the step.
"""

import os
import sys
import time
import uuid

# Replicas of the topics that scenarios make: 1 against one node, 3 against three.
REPLICAS = int(os.environ.get("CHRONIK_TEST_REPLICAS", "1"))
# Against several nodes leaders move meanwhile: only idempotent producers then leave each record once and in order.
IDEMPOTENT = REPLICAS > 1
COMPRESSIONS = ["none", "gzip", "snappy", "lz4", "zstd"]


def unique(prefix):
    """A name that no other test uses, so that scenarios can share a broker."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def check_equal(actual, expected, what):
    if actual != expected:
        raise AssertionError(f"{what}: got {actual!r}, expected {expected!r}")


def step(text):
    print(f"ok {text}", flush=True)


def eventually(probe, what, seconds=90):
    """Calls `probe` until it returns something true, which is returned."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def undisturbed(round_trip):
    """Runs `round_trip`. Against several nodes leaders move meanwhile, and what is sent without idempotence may then be lost
    (acks=0), repeated or put out of order: of a few rounds one has to come through undisturbed."""
    left = 0 if REPLICAS == 1 else 4
    while True:
        try:
            return round_trip()
        except AssertionError as error:
            if left == 0:
                raise
            left -= 1
            step(f"once more: {error}")


def sample_records(compression, null_headers=True):
    """Records of all shapes: (key, value, headers). Null key, null value, empty ones, headers, 1 B to 300 KiB."""
    tag = compression.encode()
    headers = [("one", b"1"), ("empty", b""), ("one", b"again")]
    if null_headers:
        headers.append(("null", None))
    records = [
        (None, b"no key", []),
        (b"key", None, []),
        (b"", b"", []),
        (b"headers", b"v", headers),
        ("schlüssel".encode(), "wert ✓".encode(), []),
        (b"large", bytes(range(256)) * 1200, []),
    ]
    records += [(b"k%d" % n, b"%s value %d" % (tag, n), []) for n in range(200)]
    return records


def main(scenarios):
    name, bootstrap = sys.argv[1], sys.argv[2]
    started = time.monotonic()
    scenarios[name](bootstrap, *sys.argv[3:])
    print(f"passed {name} in {time.monotonic() - started:.1f} s", flush=True)

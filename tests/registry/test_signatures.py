"""Who signed what; and what somebody with write access to everything in the registry can do about it."""

import re
import shutil

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import IntegrityError, NotFoundError, UsageError
from dlhpc.registry import blobs, remarks, signing
from dlhpc.registry.events import events
from dlhpc.registry.gc import sweep
from dlhpc.registry.record_kinds import SignatureRecord
from dlhpc.registry.records import sealed
from dlhpc.registry.statements import statement
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.test_signing import generated


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Name -> (private, public): ours, a colleague's, and the attacker's."""
    folder = tmp_path_factory.mktemp("keys")
    return {name: generated(folder, name=name) for name in ("ours", "theirs", "attackers")}


@pytest.fixture
def store(tmp_path, keys):
    """pets:1 and pets:2; pets:2 is signed by us."""
    store = Registry(tmp_path / "registry", load_backend)
    store.publish(sample(0), "pets")
    store.publish(sample(1), "pets", alias="production")
    store.sign("pets:2", keys["ours"][0], note="passed the review")
    return store


def signatures_of(store, seed):
    return remarks.ledger(store.annotations, sample(seed).digest, SignatureRecord).folder


def test_a_signed_version_is_given_and_an_unsigned_one_refused(store, keys):
    ours = keys["ours"][1]
    assert store.get("pets@production", require_signature=[ours]).digest == sample(1).digest
    with pytest.raises(IntegrityError, match="it has no signature") as caught:
        store.get("pets:1", require_signature=[ours])
    key = signing.read_public_key(ours)
    assert str(caught.value) == (
        f"pets:1 (sha256:{sample(0).digest[:12]}) is not signed by {ours} (key {key.id[:12]}): it has no signature. "
        "If it is yours: dlhpc registry sign pets:1"
    )
    assert caught.value.exit_code == 3
    assert store.get("pets:1").digest == sample(0).digest


def test_a_signature_belongs_to_the_version_under_all_its_names(store, keys):
    store.publish(sample(1), "dogs")
    assert store.get("dogs", require_signature=[keys["ours"][1]]).digest == sample(1).digest


def test_one_of_the_keys_suffices_and_another_key_does_not(store, keys):
    ours, theirs = keys["ours"][1], keys["theirs"][1]
    assert store.get("pets:2", require_signature=[theirs, ours])
    with pytest.raises(IntegrityError, match=r"signature 1 \(.*1\.json\) is by key \w{12}, which is not asked for"):
        store.get("pets:2", require_signature=[theirs])
    store.sign("pets:2", keys["theirs"][0])
    assert store.get("pets:2", require_signature=[theirs])
    assert [each.number for each in store.signatures("pets:2")] == [1, 2]


def test_a_key_signs_a_version_once(store, keys):
    first, again = store.signatures("pets:2")[0], store.sign("pets:2", keys["ours"][0], note="again")
    assert again == first
    assert len(store.signatures("pets:2")) == 1


def test_what_a_signature_tells(store, keys):
    (record,) = store.signatures("pets:2")
    assert record.key == signing.read_public_key(keys["ours"][1]).id
    assert record.note == "passed the review"
    assert events(store, "pets")[-1].kind == "signature"
    assert events(store, "pets")[-1].what == record.key


def test_what_is_damaged_or_under_no_name_is_not_signed(store, keys):
    blobs.put(store.manifests, sample(5).manifest_bytes)
    with pytest.raises(NotFoundError, match="interrupted publication"):
        store.sign(f"sha256:{sample(5).digest}", keys["ours"][0])
    weights = blobs.content_path(store.blobs, sample(0).manifest.files["weights.safetensors"].sha256)
    weights.write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match=str(weights)):
        store.sign("pets:1", keys["ours"][0])
    assert store.signatures("pets:1") == ()


def test_keys_are_looked_at_before_anything_is_written(store, tmp_path, keys):
    with pytest.raises(NotFoundError, match="expected a private key"):
        store.sign("pets:1", tmp_path / "none.pem")
    with pytest.raises(NotFoundError, match="expected a public key"):
        store.get("pets:2", require_signature=[keys["ours"][1], tmp_path / "none.pub"])
    with pytest.raises(UsageError, match="a private key; give the public one"):
        store.get("pets:2", require_signature=[keys["ours"][0]])


def test_verify_asks_for_the_signature_of_every_label(store, keys):
    ours = keys["ours"][1]
    found = verify(store, require_signature=[ours])
    assert found.signed == 1
    (problem,) = found.problems
    assert problem.startswith("pets:1 (")
    store.sign("pets:1", keys["ours"][0])
    found = verify(store, require_signature=[ours])
    assert (found.signed, found.problems, found.remarks) == (2, [], 2)
    assert sweep(store, grace_s=0).removed == {}


def forged(record, **changes):
    """A record with another content and a seal that fits, as anybody can make who can write."""
    return sealed(record.model_copy(update=changes))


def test_everything_replaced_together_is_caught_by_the_signature_alone(store, keys, tmp_path):
    """Another model, with its own manifest, digests, labels and records, all in agreement, and the old signature."""
    ours = keys["ours"][1]
    (genuine,) = store.signatures("pets:2")
    shutil.rmtree(store.root)
    attacker = Registry(store.root, load_backend)
    attacker.publish(sample(7), "pets")
    attacker.publish(sample(8), "pets", alias="production")
    assert verify(store).problems == []
    assert store.get("pets@production").digest == sample(8).digest  # nothing else can tell

    def refused(because):
        with pytest.raises(IntegrityError, match=because) as caught:
            store.get("pets@production", require_signature=[ours])
        assert str(caught.value).startswith(f"pets@production (sha256:{sample(8).digest[:12]}) is not signed by {ours}")
        assert caught.value.exit_code == 3

    refused("it has no signature")
    path = signatures_of(store, 8) / "1.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(sealed(genuine))  # copied
    with pytest.raises(IntegrityError, match=re.escape(f"{path}: belongs to the signatures of sha256")):
        store.get("pets@production", require_signature=[ours])
    path.write_bytes(forged(genuine, version=sample(8).digest))  # said to be of this version
    refused(re.escape(f"signature 1 ({path}), said to be by key {genuine.key[:12]}, is of another version"))
    assert any(f"{path}: the signature is of another version" in problem for problem in verify(store).problems)

    false = signing.read_private_key(keys["attackers"][0])
    files = sample(8).manifest.digests
    envelope = false.sign(statement(sample(8).digest, files))
    path.write_bytes(forged(genuine, version=sample(8).digest, key=false.public.id, envelope=envelope))
    refused(f"is by key {false.public.id[:12]}, which is not asked for")  # the attacker's own
    (made,) = envelope.signatures
    claimed = envelope.model_copy(update={"signatures": (made.model_copy(update={"keyid": genuine.key}),)})
    path.write_bytes(forged(genuine, version=sample(8).digest, envelope=claimed))
    refused("does not verify: it was forged or damaged")  # said to be ours
    mixed = genuine.envelope.model_copy(update={"payload": envelope.payload})
    path.write_bytes(forged(genuine, version=sample(8).digest, envelope=mixed))
    refused("does not verify: it was forged or damaged")  # our signature under another statement
    path.write_bytes(forged(genuine, version=sample(8).digest, envelope=envelope))
    refused("does not verify: it was forged or damaged")  # the attacker's, in our record


def test_a_forged_signature_in_the_way_neither_counts_nor_keeps_ours_out(store, keys):
    (genuine,) = store.signatures("pets:2")
    path = signatures_of(store, 0) / "1.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(forged(genuine, version=sample(0).digest))
    record = store.sign("pets:1", keys["ours"][0])
    assert record.number == 2
    assert store.get("pets:1", require_signature=[keys["ours"][1]]).digest == sample(0).digest


def test_a_signature_that_was_removed_is_missed(store, keys):
    shutil.rmtree(signatures_of(store, 1))
    with pytest.raises(IntegrityError, match="it has no signature"):
        store.get("pets:2", require_signature=[keys["ours"][1]])


def test_a_signature_vouches_for_bytes_and_not_for_a_name(store, keys):
    """Somebody who can write may still let a name stand for another version that we signed: a digest tells."""
    attacker = Registry(store.root, load_backend)
    attacker.publish(sample(1), "dogs", alias="production")
    assert store.get("dogs@production", require_signature=[keys["ours"][1]]).digest == sample(1).digest

"""Judges over a store in memory: what they decide, and what they learn of what came."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from embeddings.service.ledger import Ledger
from embeddings.service.source import Learned, SourceUnavailable
from embeddings.verdict import Verdict
from embeddings.wire import Budgeted
from tests.embeddings.fakes import FakeSource, FakeStore, key_of
from tests.embeddings.service.judging import ABOUT, ROUTE, Host, group_of, settle, until

RIGHT = "All about number 0."


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
async def host(store: FakeStore) -> AsyncIterator[Host]:
    host = Host(store)
    host.judge.start()
    yield host
    await host.judge.stop()


async def test_first_question_finds_nothing_and_teaches_nothing(host: Host) -> None:
    """There is nothing its answer could be compared with."""
    decision, is_check = await host.ask("first")
    await host.answer("first")

    assert (decision.verdict, is_check) == (Verdict.NOTHING, False)
    assert host.samples == []


@pytest.mark.parametrize(("answer", "is_right"), [(RIGHT, True), ("The fee is due.", False)])
async def test_answer_to_a_miss_teaches_whether_the_neighbours_were_right(
    host: Host, answer: str, is_right: bool
) -> None:
    """They spoke for an answer, and then the upstream's came."""
    await host.answer("first")

    decision, _ = await host.ask("second")
    await host.answer("second", answer=answer)

    assert decision.verdict is Verdict.UNSURE
    [sample] = host.samples
    assert sample.is_right is is_right
    assert (sample.group, sample.would_serve, sample.weight) == (group_of(RIGHT), False, 1.0)
    assert sample.at == host.now
    assert host.observer.comparisons == [(False, is_right)]


async def test_each_look_up_teaches_once(host: Host) -> None:
    """A record that is written again, for its vector say, is no second answer."""
    await host.answer("first")
    await host.ask("second")
    for _ in range(3):
        await host.answer("second")

    assert len(host.samples) == 1


async def test_answer_that_nobody_asked_this_host_for_teaches_nothing(host: Host) -> None:
    """The host that was asked learns of it."""
    await host.answer("first")
    await host.answer("second")

    assert host.samples == []


async def test_route_earns_its_hits_and_then_serves(host: Host) -> None:
    """The answer of the nearest question about the same."""
    await host.teach()

    decision, is_check = await host.ask("a new wording", 3)

    assert decision.verdict is Verdict.SERVE
    assert not is_check
    assert decision.group == group_of("All about number 3.")
    assert Verdict.EARNING in host.observer.verdicts
    assert host.judge.states()[ROUTE]["is_serving"]


async def test_what_is_stored_under_ones_own_key_is_no_evidence(host: Host) -> None:
    """It would be the exact tier's hit; it has gone stale, say."""
    await host.answer("first")

    decision, _ = await host.ask("first")

    assert decision.verdict is Verdict.NOTHING


async def test_share_of_the_hits_is_checked_and_counts_for_the_others(host: Host) -> None:
    """By chance; a checked hit's sample weighs as many as it stands for."""
    await host.teach()
    learned = len(host.samples)

    host.chance = 0.26
    assert not (await host.ask("unchecked"))[1]
    host.chance = 0.24
    decision, is_check = await host.ask("checked")
    assert decision.verdict is Verdict.SERVE
    assert is_check
    await host.answer("checked")

    [sample] = host.samples[learned:]
    assert (sample.weight, sample.would_serve, sample.is_right) == (4.0, True, True)


async def test_nothing_is_checked_in_the_shadow(host: Host) -> None:
    """Nothing is served there; each answer comes from upstream anyway."""
    await host.teach()
    host.chance = 0.0

    decision, is_check = await host.ask("in the shadow", check_share=0.0)

    assert decision.verdict is Verdict.SERVE
    assert not is_check
    assert key_of("in the shadow") not in host.store.witnesses


async def test_hits_that_turn_out_wrong_end_serving(host: Host) -> None:
    """The route goes back to earning, by the checks alone."""
    await host.teach()
    host.chance = 0.0

    for number in range(30):
        decision, _ = await host.ask(f"changed {number}")
        await host.answer(f"changed {number}", answer=f"Something else, number {number}.")
        await host.has_taken_up_all()
        if decision.verdict is not Verdict.SERVE:
            break

    assert not host.observer.is_serving[ROUTE]
    assert host.judge.states()[ROUTE]["alarms"] == 1


async def test_source_that_is_away_means_nothing_and_teaches_nothing(host: Host) -> None:
    """With some voices missing the others might say something else."""
    await host.answer("first")
    host.store.is_down = True
    decision, is_check = await host.ask("second")
    host.store.is_down = False
    await host.answer("second")

    assert (decision.verdict, is_check) == (Verdict.NOTHING, False)
    assert host.samples == []
    assert host.observer.verdicts == [], "nothing was decided"


async def test_answer_that_cannot_be_compared_is_let_go(host: Host) -> None:
    """A sample less; the next is learned from."""
    await host.answer("first")
    await host.ask("second")
    host.store.is_down = True
    await host.answer("second")
    host.store.is_down = False
    assert host.samples == []

    await host.ask("third")
    await host.answer("third")

    assert len(host.samples) == 1


async def test_two_judges_on_one_source_come_to_the_same_budget(store: FakeStore) -> None:
    """Whoever learned it, and also one that starts later: all take up all, in one order."""
    one, other = Host(store), Host(store)
    one.judge.start()
    other.judge.start()
    await other.ask("to know the route")
    await one.teach()
    late = Host(store)
    late.judge.start()
    await late.ask("another")
    await other.has_taken_up_all()
    await late.has_taken_up_all()

    states = [host.judge.states()[ROUTE] for host in (one, other, late)]

    for state in states:
        for name in ("is_serving", "samples", "alarms", "compared", "wrong"):
            assert state[name] == states[0][name]
    assert states[0]["is_serving"]
    for host in (one, other, late):
        await host.judge.stop()


async def test_samples_of_another_encoder_are_not_taken_up(host: Host) -> None:
    """What its scores mean says nothing of this one's."""
    await host.answer("first")
    await host.ask("second")
    host.store.samples += [("e" * 32, ROUTE, b"whatever")] * 3
    host.store.samples.append((host.encoder.fingerprint, ROUTE, b"of another version"))
    await host.answer("second")
    await settle()

    assert host.judge.states()[ROUTE]["samples"] == 1


async def test_log_that_is_away_at_first_is_read_later(store: FakeStore) -> None:
    """From its beginning, and what was forbidden with it."""
    teacher = Host(store)
    teacher.judge.start()
    await teacher.teach()
    await teacher.judge.stop()
    store.forbidden.add(key_of("a new wording") + group_of(RIGHT))
    store.are_samples_down = True
    host = Host(store)
    host.judge.start()
    assert (await host.ask("early"))[0].verdict is Verdict.UNSURE

    store.are_samples_down = False
    await until(lambda: host.observer.is_serving[ROUTE])

    assert (await host.ask("a new wording"))[0].verdict is Verdict.FORBIDDEN
    await host.judge.stop()


async def test_bad_feedback_forbids_the_answer_and_teaches(host: Host) -> None:
    """That question never gets it again; others do, as long as it is right for them."""
    await host.teach()
    await host.ask("hurt")
    learned = len(host.samples)

    assert await host.judge.told(key_of("hurt"), None, False)

    assert [sample.is_right for sample in host.samples[learned:]] == [False]
    assert (await host.ask("hurt"))[0].verdict is Verdict.FORBIDDEN
    assert (await host.ask("another"))[0].verdict is Verdict.SERVE
    assert host.store.forbidden == {key_of("hurt") + group_of(RIGHT)}


async def test_good_feedback_teaches_and_forbids_nothing(host: Host) -> None:
    """Once for each answer that was given."""
    await host.teach()
    await host.ask("praised")
    learned = len(host.samples)

    assert await host.judge.told(key_of("praised"), None, True)
    assert not await host.judge.told(key_of("praised"), None, True)

    assert [sample.is_right for sample in host.samples[learned:]] == [True]
    assert (await host.ask("praised"))[0].verdict is Verdict.SERVE


async def test_feedback_on_what_is_not_remembered_forbids_by_what_was_served(host: Host) -> None:
    """Another host decided, or it is too long ago: there is no evidence to learn from."""
    await host.teach()
    learned = len(host.samples)

    assert await host.judge.told(key_of("asked elsewhere"), key_of("lesson 0 about 0"), False)

    assert host.samples[learned:] == []
    assert (await host.ask("asked elsewhere"))[0].verdict is Verdict.FORBIDDEN


async def test_forbidden_answer_stays_forbidden_under_its_groups_new_name(host: Host) -> None:
    """Groups are merged, and the pair was written down before."""
    await host.teach()
    await host.ask("hurt")
    served = host.store.witnesses[key_of("lesson 0 about 0")]
    assert await host.judge.told(key_of("hurt"), served.key, False)

    for record in list(host.store.witnesses.values()):
        if record.group == served.group:
            await host.store_record(replace(record, group=b"n" * 16))

    decision, _ = await host.ask("hurt")
    assert (decision.verdict, decision.group) == (Verdict.FORBIDDEN, b"n" * 16)
    assert (await host.ask("another"))[0].verdict is Verdict.SERVE


async def test_bad_feedback_forbids_what_the_answers_group_is_called_as_well(host: Host) -> None:
    """The same answer in other words, of the same group, is as bad."""
    await host.teach()
    served = replace(host.record("reworded", answer="Of number 0, all."), group=group_of(RIGHT))
    await host.store_record(served)

    assert await host.judge.told(key_of("asked elsewhere"), served.key, False)

    pairs = {key_of("asked elsewhere") + group for group in (served.group, served.words)}
    assert host.store.forbidden == pairs
    assert (await host.ask("asked elsewhere"))[0].verdict is Verdict.FORBIDDEN


@pytest.mark.parametrize("served", [None, "asked elsewhere", "not stored"])
async def test_feedback_on_nothing_known_is_of_no_use(host: Host, served: str | None) -> None:
    """Nothing was remembered, and what was served is not known, its own, or gone."""
    key = None if served is None else key_of(served)

    assert not await host.judge.told(key_of("asked elsewhere"), key, False)
    assert host.store.forbidden == set()


async def test_feedback_that_cannot_be_written_down_is_told(host: Host) -> None:
    """Whoever gave it may try again."""
    await host.answer("first")
    await host.ask("second")
    host.store.is_down = True

    with pytest.raises(SourceUnavailable):
        await host.judge.told(key_of("second"), None, False)


async def test_what_one_host_forbids_no_host_serves(store: FakeStore) -> None:
    """At the latest a moment later."""
    one, other = Host(store), Host(store)
    for host in (one, other):
        host.judge.start()
    await one.teach()
    await one.ask("hurt")
    await other.ask("to know the route")
    await other.has_taken_up_all()
    assert (await other.ask("hurt"))[0].verdict is Verdict.SERVE

    await one.judge.told(key_of("hurt"), None, False)
    await other.has_taken_up_all()

    assert (await other.ask("hurt"))[0].verdict is Verdict.FORBIDDEN
    for host in (one, other):
        await host.judge.stop()


async def test_explaining_tells_all_and_remembers_nothing(host: Host) -> None:
    """What would be decided, from whom, and how the route stands; no answer teaches of it."""
    await host.teach()
    learned = len(host.samples)
    look_up, budgeted, matches = host.asked("explained")

    told = await host.judge.explain(budgeted, look_up.text, matches)
    await host.answer("explained")

    assert told["verdict"] == "serve"
    assert told["group"] == group_of(RIGHT).hex()
    assert told["probability"] >= told["threshold"]
    assert told["route"]["is_serving"]
    assert [one["score"] for one in told["neighbours"]] == [match.score for match in matches]
    assert told["neighbours"][0]["text"] == ABOUT[0]
    assert len(host.samples) == learned


async def test_changed_record_is_read_again(host: Host) -> None:
    """Its answer is another one now, or it is gone."""
    await host.answer("first")
    await host.ask("second")
    await host.answer("first", answer="Something else.")
    assert (await host.ask("third"))[0].group == group_of("Something else.")

    del host.store.witnesses[key_of("first")]
    host.judge.changed([key_of("first")])
    assert (await host.ask("fourth"))[0].verdict is Verdict.NOTHING


async def test_neighbours_with_vectors_of_two_sizes_say_nothing(host: Host) -> None:
    """One of them is no vector of this encoder."""
    await host.answer("first")
    await host.store_record(replace(host.record("odd"), vector=b"\0\0\x80\x3f" * 16))
    look_up, budgeted, matches = host.asked("third")
    host.store.witnesses[key_of("odd")] = replace(host.record("odd"), vector=b"\0\0\x80\x3f" * 8)

    decision, _ = await host.judge.judge(budgeted, look_up.text, matches)

    assert decision.verdict is Verdict.NOTHING


async def test_other_max_error_is_judged_by_the_same_samples(host: Host) -> None:
    """After a reload of the settings, say; nothing has to be learned again."""
    await host.teach()
    host.max_error = 0.3

    assert (await host.ask("with another budget"))[0].verdict is Verdict.SERVE
    assert host.judge.states()[ROUTE]["max_error"] == 0.3


async def test_answer_that_no_encoder_can_take_costs_its_label_and_no_more(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """The defect is told of; what comes after is learned."""
    host.poison = "poison"
    await host.answer("first")
    await host.ask("second")
    await host.ask("third")

    await host.answer("second", answer="This one is poison to the encoder, and long enough.")
    await host.answer("third")

    assert "not learned from by a defect" in caplog.text
    assert "poison" not in "".join(record.getMessage() for record in caplog.records)
    assert [sample.is_right for sample in host.samples] == [True]


async def test_defect_in_reading_what_was_learned_does_not_end_the_reading(
    store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a route would serve on, and never see that it is wrong."""

    class Defective(FakeSource):
        is_defective = True

        async def learned(self, after: str, most: int) -> Learned:
            if self.is_defective:
                self.is_defective = False
                raise RuntimeError("a defect")
            return await super().learned(after, most)

    host = Host(store)
    ledger = Ledger(Defective(store, host.encoder.fingerprint), host.observer)
    await host.answer("first")
    await host.ask("second")
    await host.answer("second")
    ledger.start()
    ledger.budget(Budgeted(key_of("any"), ROUTE, 0.1, 0.25))

    await until(lambda: ledger.states()[ROUTE]["samples"] == len(host.samples) == 1)
    await ledger.stop()

    assert "was not read by a defect" in caplog.text

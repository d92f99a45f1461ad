"""The order of rows: all of them in every epoch, drawn anew, and batches that are cheap."""

from stages.training import order

SIZE = 4


def test_every_epoch_has_all_rows_in_an_order_of_its_own():
    conversations, lengths = [str(n // 4) for n in range(40)], [5 + n % 7 for n in range(40)]
    for draw, rows in ((order.by_conversation, conversations), (order.by_length, lengths)):
        one, two, again, seed = (draw(rows, SIZE, s, epoch) for s, epoch in ((1, 0), (1, 1), (1, 0), (2, 0)))
        assert sorted(one) == sorted(two) == list(range(40))
        assert one == again != two and one != seed


def test_a_conversation_is_whole_in_a_batch():
    conversations = [str(n // 4) for n in range(40)]
    drawn = order.by_conversation(conversations, SIZE, 1, 0)
    assert all(len({conversations[i] for i in drawn[n : n + SIZE]}) == 1 for n in range(0, 40, SIZE))


def test_what_fills_a_batch_stays_whole_beside_smaller_conversations():
    conversations = [f"group {n // 12}" for n in range(120)] + [f"talk {n // 4}" for n in range(18)] + ["long"] * 30
    drawn = [conversations[i] for i in order.by_conversation(conversations, 12, 1, 0)]
    batches = [drawn[n : n + 12] for n in range(0, len(drawn), 12)]
    assert sorted(drawn) == sorted(conversations)
    assert sum(len(set(b)) == 1 and b[0].startswith("group") for b in batches) == 10
    assert sum(set(b) == {"long"} for b in batches) == 2 and sum("long" in b for b in batches) == 3


def test_like_lengths_are_in_a_batch_and_the_short_batch_is_last():
    lengths = [5 + n % 7 for n in range(42)]
    drawn = [lengths[i] for i in order.by_length(lengths, SIZE, 1, 0)]
    assert all(max(drawn[n : n + SIZE]) - min(drawn[n : n + SIZE]) <= 1 for n in range(0, 42, SIZE))
    assert drawn[40:] == [5, 5] or drawn[40:] == [6, 5], "the shortest rows are what is left over"

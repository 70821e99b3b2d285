"""Who waits for a slot, and in which order."""

import asyncio

from teleworkerd.executors.slots import FairSlots


async def take(slots: FairSlots, owner: str, order: list[str]) -> None:
    """Have a slot, as others do, for a turn of the loop."""
    async with slots.slot(owner):
        order.append(owner)
        await asyncio.sleep(0)


async def test_order() -> None:
    """Who wants few waits for one of those of who wants many."""
    slots, order = FairSlots(1), list[str]()
    owners = ["alice"] * 5 + ["bob"] * 2 + ["carol"]
    await asyncio.gather(*(take(slots, owner, order) for owner in owners))

    assert order == ["alice", "alice", "bob", "carol", "alice", "bob", "alice", "alice"]
    assert slots._free == 1


async def test_most_at_once() -> None:
    """There are no more than there are slots."""
    slots, now, most = FairSlots(3), 0, 0

    async def work(owner: str) -> None:
        nonlocal now, most

        async with slots.slot(owner):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    await asyncio.gather(*(work(str(number % 4)) for number in range(40)))

    assert most == 3
    assert (slots._free, slots._waiting) == (3, {})


async def test_cancelled() -> None:
    """Who is cancelled, before or just as it has its slot, leaves it to others."""
    slots, order = FairSlots(1), list[str]()
    tasks = [asyncio.create_task(take(slots, "alice", order)) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.sleep(0)  # the first ends, and the second has its slot
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert not tasks[3].cancelled()
    assert (slots._free, slots._waiting) == (1, {})

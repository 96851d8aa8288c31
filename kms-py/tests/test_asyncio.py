"""asyncio: cancellation, loops, uvloop, and many tasks."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeVarTuple

import mini_kms
import pytest
import uvloop
from mini_kms import AsyncKms, AsyncSession, Kms
from support import ROOT_KEY, run

Loop = Callable[[], asyncio.AbstractEventLoop]
LOOPS: list[Any] = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]


def drive(loop: Loop, url: str, use: Callable[[AsyncSession], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Runs a coroutine with an open service, on a loop of this kind."""

    async def main() -> None:
        async with await AsyncKms.open(url, root_key=ROOT_KEY, **settings) as kms:
            alice = kms.session("alice", "admin")
            await alice.create_key("users")
            await use(alice)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_thousand_tasks(loop: Loop, url: str) -> None:
    async def use(alice: AsyncSession) -> None:
        async def both(number: int) -> None:
            plaintext = str(number).encode() * 10
            sealed = await alice.encrypt("users", plaintext)
            assert (await alice.decrypt(sealed.ciphertext)).plaintext == plaintext

        await asyncio.gather(*(both(number) for number in range(1_000)))
        assert (await alice.verify_audit()).ok

    drive(loop, url, use)


def test_no_thread_for_each_call(url: str) -> None:
    async def use(alice: AsyncSession) -> None:
        tasks = [asyncio.ensure_future(alice.encrypt("users", b"x")) for _ in range(500)]
        await asyncio.sleep(0)
        assert threading.active_count() < 5
        await asyncio.gather(*tasks)

    drive(asyncio.new_event_loop, url, use)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("sleeps", [0, 1, 3])
def test_a_cancelled_task_cancels_no_operation(loop: Loop, url: str, sleeps: int) -> None:
    count = 0

    async def use(alice: AsyncSession) -> None:
        nonlocal count
        tasks = [asyncio.ensure_future(alice.create_key(f"key {number}")) for number in range(20)]
        await asyncio.sleep(0)
        for _ in range(sleeps):
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError | mini_kms.Key) for result in results)
        count = len(results)
        # No task waits any more, but all operations are done. Closing would refuse those that have not begun.
        while len((await alice.list_keys(name_prefix="key ")).items) < count:
            await asyncio.sleep(0.01)

    drive(loop, url, use)
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        assert len(kms.session("alice", "admin").list_keys(name_prefix="key ").items) == count


@pytest.mark.parametrize("ack", ["durable", "queued"])
@pytest.mark.parametrize("loop", LOOPS)
def test_closing_during_tasks(loop: Loop, url: str, ack: Literal["durable", "queued"]) -> None:
    acknowledged, refused = set[str](), set[str]()

    async def main() -> None:
        kms = await AsyncKms.open(url, root_key=ROOT_KEY, audit_ack=ack)
        alice = kms.session("alice", "admin")

        async def make(name: str) -> None:
            try:
                await alice.create_key(name)
                acknowledged.add(name)
            except mini_kms.Closed:
                refused.add(name)

        tasks = [asyncio.ensure_future(make(f"early {number}")) for number in range(100)]
        while not acknowledged:
            await asyncio.sleep(0)
        closing = asyncio.ensure_future(kms.close())
        tasks += [asyncio.ensure_future(make(f"late {number}")) for number in range(100)]
        await asyncio.gather(closing, *tasks)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
    assert len(acknowledged | refused) == 200
    # Every acknowledged key exists. Operations that were not submitted yet when the service closed were not done.
    with Kms.open(url, root_key=ROOT_KEY) as kms:
        alice = kms.session("alice", "admin")
        assert {key.name for key in alice.list_keys(limit=1_000).items} == acknowledged
        assert alice.verify_audit().ok


@pytest.mark.parametrize("loop", LOOPS)
def test_timeouts(loop: Loop, url: str) -> None:
    async def use(alice: AsyncSession) -> None:
        for number in range(20):
            await alice.create_key(f"key {number}")
        await alice.add_root_key(mini_kms.generate_root_key())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await alice.rewrap(rate=5)
        # The loop and the service still work.
        assert (await alice.encrypt("users", b"")).version == 1

    drive(loop, url, use)


def test_a_buffer_is_locked_while_a_result_may_come(url: str) -> None:
    async def use(alice: AsyncSession) -> None:
        for cancelled in (False, True):
            buffer = bytearray(1_000)
            task = asyncio.ensure_future(alice.encrypt_into("users", b"secret", buffer))
            await asyncio.sleep(0)
            with pytest.raises(BufferError):
                buffer.extend(b"more")
            if cancelled:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await alice.encrypt("users", b"")
            for _ in range(1_000):
                try:
                    buffer.extend(b"more")
                    break
                except BufferError:
                    await asyncio.sleep(0.01)
            else:
                raise AssertionError("the buffer stays locked")
            if not cancelled:
                assert any(buffer[:1_000])

    drive(asyncio.new_event_loop, url, use)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_closed_loop_drops_its_operations_but_not_their_records(loop: Loop, url: str) -> None:
    opened: Any = asyncio.run(AsyncKms.open(url, root_key=ROOT_KEY))
    alice: AsyncSession = opened.session("alice", "admin")
    buffers = [bytearray(1_000) for _ in range(50)]

    async def begin() -> None:
        await alice.create_key("users")
        await alice.encrypt("users", b"")
        for buffer in buffers:
            task = asyncio.ensure_future(alice.encrypt_into("users", b"secret", buffer))
            await asyncio.sleep(0)
            task.cancel()

    async def end() -> None:
        while len((await alice.list_audit(action="ENCRYPT")).items) < 1 + len(buffers):
            await asyncio.sleep(0.01)
        await opened.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(begin())
    for buffer in buffers:
        buffer.extend(b"more")
    asyncio.run(end())


def test_inputs_may_be_released_before_the_result_comes(url: str) -> None:
    async def use(alice: AsyncSession) -> None:
        data = bytearray(b"x" * 100_000)
        view = memoryview(data)
        task = asyncio.ensure_future(alice.encrypt("users", view))
        await asyncio.sleep(0)
        view.release()
        data.clear()
        assert (await alice.decrypt((await task).ciphertext)).plaintext == b"x" * 100_000

    drive(asyncio.new_event_loop, url, use)


def test_several_loops_use_one_service(url: str) -> None:
    opened: Any = asyncio.run(AsyncKms.open(url, root_key=ROOT_KEY))
    alice: AsyncSession = opened.session("alice", "admin")

    async def use() -> None:
        await alice.encrypt("users", b"x" * 5_000)

    async def many() -> None:
        await asyncio.gather(*(use() for _ in range(50)))

    async def first() -> None:
        await alice.create_key("users")

    asyncio.run(first())
    asyncio.run(many())
    failures = list[BaseException]()

    def other() -> None:
        try:
            asyncio.run(many())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=other) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    asyncio.run(opened.close())


def test_without_a_running_loop_nothing_is_done(url: str) -> None:
    opened: Any = asyncio.run(AsyncKms.open(url, root_key=ROOT_KEY))
    alice: AsyncSession = opened.session("alice", "admin")
    coroutine = alice.create_key("users")
    with pytest.raises(RuntimeError, match="loop"):
        coroutine.send(None)
    assert isinstance(alice.list_keys(), Awaitable)
    gc.collect()

    async def close() -> None:
        assert (await alice.list_keys()).items == ()
        await opened.close()

    asyncio.run(close())


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_a_coroutine_that_nobody_awaits_does_nothing(url: str) -> None:
    async def use(alice: AsyncSession) -> None:
        coroutine = alice.create_key("never")
        del coroutine
        gc.collect()
        with pytest.raises(mini_kms.KeyNotFound):
            await alice.get_key("never")

    drive(asyncio.new_event_loop, url, use)


def test_the_synchronous_interface_works_beside_a_loop(url: str) -> None:
    async def main() -> None:
        # Like any blocking call, it blocks the loop unless it runs in a thread.
        with Kms.open(url, root_key=ROOT_KEY) as kms:
            alice = kms.session("alice", "admin")
            alice.create_key("users")
            sealed = await asyncio.to_thread(alice.encrypt, "users", b"secret")
            assert alice.decrypt(sealed.ciphertext).plaintext == b"secret"

    asyncio.run(main())


def test_an_exception_of_a_callback_is_reported_by_the_loop(url: str) -> None:
    async def use(alice: AsyncSession) -> None:
        def stop(done: int, total: int) -> None:
            raise LookupError("mine")

        reported = list[Any]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context.get("exception")))
        try:
            await alice.verify_audit(progress=stop)
        except LookupError:
            return
        assert (await alice.verify_audit()).ok

    drive(asyncio.new_event_loop, url, use)


def test_loops_leave_no_descriptors_behind(url: str) -> None:
    source = """
        import asyncio, gc, os, sys
        import mini_kms
        kms = asyncio.run(mini_kms.AsyncKms.open(sys.argv[1], root_key=bytes(32)))
        def count():
            gc.collect()
            return len(os.listdir("/proc/self/fd"))
        async def use():
            await kms.session("alice", "admin").list_keys()
        asyncio.run(use())
        before = count()
        for _ in range(50):
            asyncio.run(use())
        assert count() <= before + 2, (before, count())
        asyncio.run(kms.close())
    """
    run(source, url)


def leave_pending(begin: Callable[[], Coroutine[Any, Any, Any]], count: int) -> asyncio.AbstractEventLoop:
    """Begins operations on a loop that then stops. It is not closed."""
    stopped = asyncio.new_event_loop()

    async def start() -> list[asyncio.Task[Any]]:
        tasks = [asyncio.ensure_future(begin()) for _ in range(count)]
        await asyncio.sleep(0)
        return tasks

    stopped.run_until_complete(start())
    return stopped


def end(stopped: asyncio.AbstractEventLoop) -> None:
    pending = asyncio.all_tasks(stopped)
    stopped.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
    stopped.close()


def test_a_stopped_loop_keeps_nothing_from_others(url: str) -> None:
    async def use(kms: AsyncKms, session: AsyncSession) -> None:
        async with asyncio.timeout(20):
            await session.list_keys()
            await session.rotate_key("users")
            assert (await session.verify_audit()).ok
            await kms.run_scheduler()
            with pytest.raises(mini_kms.KeyNotFound):
                await session.encrypt("another unknown key", b"x")

    kms = asyncio.run(AsyncKms.open(url, root_key=ROOT_KEY))
    alice = kms.session("alice", "admin")
    asyncio.run(alice.create_key("users"))
    # An unknown key may have been created by another node, so each of these reads the store, in turns.
    stopped = leave_pending(lambda: alice.encrypt("unknown", b"x"), 20)
    asyncio.run(use(kms, alice))
    end(stopped)
    asyncio.run(kms.close())


def test_a_stopped_loop_keeps_no_turn_to_load_keys(url: str) -> None:
    async def create(names: list[str]) -> None:
        async with await AsyncKms.open(url, root_key=ROOT_KEY) as kms:
            for name in names:
                await kms.session("alice", "admin").create_key(name)

    async def use(session: AsyncSession) -> None:
        async with asyncio.timeout(20):
            await session.encrypt("last", b"x")

    asyncio.run(create([*map(str, range(80)), "last"]))
    kms = asyncio.run(AsyncKms.open(url, root_key=ROOT_KEY))
    alice, names = kms.session("alice", "admin"), map(str, range(80))
    stopped = leave_pending(lambda: alice.encrypt(next(names), b"x"), 80)
    asyncio.run(use(alice))
    end(stopped)
    asyncio.run(kms.close())


Arguments = TypeVarTuple("Arguments")


class Interrupted(asyncio.SelectorEventLoop):
    """A loop in which a signal arrives while a future is completed."""

    is_armed = False

    def call_soon(
        self, callback: Callable[[*Arguments], object], *args: *Arguments, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        if self.is_armed:
            self.is_armed = False
            raise KeyboardInterrupt
        return super().call_soon(callback, *args, context=context)


def test_an_interrupt_during_a_delivery_ends_the_loop(url: str) -> None:
    kms = asyncio.run(AsyncKms.open(url, root_key=ROOT_KEY))
    alice = kms.session("alice", "admin")
    asyncio.run(alice.create_key("users"))
    loop = Interrupted()

    async def main() -> None:
        pending = asyncio.ensure_future(alice.encrypt("users", b"x"))
        await asyncio.sleep(0)
        loop.is_armed = True
        await pending

    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.wait_for(main(), 20))
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    asyncio.run(kms.close())


def test_progress_is_reported_in_the_context_of_the_caller(url: str) -> None:
    request: contextvars.ContextVar[int] = contextvars.ContextVar("request")

    async def use(alice: AsyncSession) -> None:
        seen: list[tuple[int, int]] = []

        async def verify(number: int) -> None:
            request.set(number)
            await alice.verify_audit(progress=lambda _done, _total: seen.append((number, request.get())))

        for number in range(3):
            await asyncio.create_task(verify(number))
        assert {number for number, _ in seen} == {0, 1, 2}
        assert all(number == found for number, found in seen)

    drive(asyncio.new_event_loop, url, use)


def test_any_exception_of_a_callback_reaches_the_caller(url: str) -> None:
    async def use(alice: AsyncSession) -> None:
        for error, expected in [(ValueError("x"), ValueError), (StopIteration(), RuntimeError)]:

            def raising(_done: int, _total: int, error: Exception = error) -> None:
                raise error

            with pytest.raises(expected):
                await alice.verify_audit(progress=raising)

    drive(asyncio.new_event_loop, url, use)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_forgotten_is_freed(url: str) -> None:
    kms = asyncio.run(AsyncKms.open(url, root_key=ROOT_KEY))
    alice = kms.session("alice", "admin")
    asyncio.run(alice.create_key("users"))

    def forgotten() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(alice.encrypt("users", b"x"))
        return weakref.ref(loop)

    left = [forgotten() for _ in range(10)]
    gc.collect()
    assert [loop() for loop in left] == [None] * 10
    asyncio.run(kms.close())

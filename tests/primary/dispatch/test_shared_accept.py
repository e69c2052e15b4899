"""Who accepts from listeners that are shared; doors and workers are made up."""

from aiocluster.ipc.messages import Accept
from aiocluster.primary.dispatch.shared_accept import SharedAccept


class FakeDoors:
    """Two shared listeners, or none."""

    def __init__(self) -> None:
        self.shared = {0: 10, 3: 11}
        self.are_listening = False
        self.left_to_workers: list[bool] = []

    def leave_to_workers(self, on: bool) -> None:
        self.left_to_workers.append(on)


class FakeWorker:
    """One that can accept from these, and writes down what it is told."""

    def __init__(self, *shared: int) -> None:
        self.shared = frozenset(shared)
        self.told: list[Accept] = []

    @property
    def channel(self) -> "FakeWorker":
        return self

    def post(self, message: Accept) -> None:
        self.told.append(message)


class Stage:
    """Workers that serve, among five there are."""

    def __init__(self, *workers: FakeWorker) -> None:
        self.workers = [*workers]
        self.ingress = FakeDoors()
        self.sharing = SharedAccept(lambda: 5, lambda: self.workers)
        self.sharing.begin_with(self.ingress)

    def listen(self) -> None:
        self.ingress.are_listening = True
        self.sharing.begin_accepting()


def test_whoever_can_accepts_once_clients_may_connect() -> None:
    """And knows how many others do; one that comes later as well."""
    able, unable, later = FakeWorker(0, 3), FakeWorker(), FakeWorker(0, 3)
    stage = Stage(able, unable)
    stage.sharing.let_accept(able)
    assert able.told == []
    stage.listen()
    stage.sharing.let_accept(later)

    assert able.told == later.told == [Accept(True, 5)]
    assert unable.told == []


def test_who_leaves_accepts_nothing_more() -> None:
    """One that never did need not be told."""
    able, unable = FakeWorker(0, 3), FakeWorker()
    stage = Stage()
    stage.sharing.end(able)
    stage.sharing.end(unable)

    assert (able.told, unable.told) == ([Accept(False)], [])


def test_the_primary_helps_out_while_somebody_cannot() -> None:
    """One that another program forked has not all of the listeners, or none."""
    stage = Stage(FakeWorker(0, 3), FakeWorker(0))
    stage.listen()
    stage.workers.pop()
    stage.sharing.divide()

    assert stage.ingress.left_to_workers == [False, True]


def test_without_shared_listeners_there_is_nothing_to_divide() -> None:
    """Nor before they are bound. Who accepted from them stops."""
    worker = FakeWorker(0, 3)
    stage = Stage(worker)
    stage.ingress.shared = {}
    stage.listen()
    SharedAccept(lambda: 1, lambda: [worker]).begin_accepting()

    assert stage.ingress.left_to_workers == []
    assert worker.told == [Accept(False, 5)]

"""Every error that asynqpy raises of its own.

    AsynqError
    ├── BrokerError                    Redis said no, or could not be reached
    │   ├── BrokerUnavailableError     Redis is away: a write may or may not have happened
    │   ├── BrokerAuthError            Redis refused the user, the password or the command's permission
    │   ├── BrokerFullError            Redis is out of memory and evicts nothing: nothing was written
    │   └── NotReplicatedError         the task is stored, but fewer replicas than asked for have it
    ├── EmbeddedServerError            an embedded Redis could not be found or started
    ├── DuplicateTaskError             a task of the same type and payload holds the unique lock
    ├── TaskIdConflictError            a task of the same id exists in the queue
    ├── TaskNotFoundError
    ├── TaskStateError                 the task is in a state in which that cannot be done to it
    ├── QueueNotFoundError
    ├── QueueNotEmptyError
    ├── HandlerNotFoundError           no pattern of the ServeMux matches the task's type
    ├── MalformedMessageError          a record in Redis that no asynq client would write
    ├── PayloadError                   the payload is not what the handler asked for: archives the task
    ├── LeaseExpiredError              the task was given away while its handler ran
    │   └── WorkerCrashedError         the worker that ran the task died
    ├── DeadlineExceededError          the handler ran past the task's timeout or deadline
    ├── TaskCancelledError             somebody asked for the running task to be cancelled
    ├── ServerClosedError              the server was shut down and cannot be started again
    ├── ProcessStartError              the processes of a supervisor end before they have started a server
    ├── SkipRetry                      raised by a handler: archive now
    └── RevokeTask                     raised by a handler: drop the task

Bad arguments are plain ``ValueError`` and ``TypeError``, raised before anything is sent.
"""

from __future__ import annotations


class AsynqError(Exception):
    """The root of the tree above."""


class BrokerError(AsynqError):
    """Redis refused a command, or answered what no asynq server would."""


class BrokerUnavailableError(BrokerError):
    """Redis could not be reached, broke the connection before the answer came, or cannot take writes now.

    A write that was under way may have happened or not; asynqpy never repeats it silently.
    """


class BrokerAuthError(BrokerError):
    """Redis refused the user name, the password, or a command that the user's ACL does not allow."""


class BrokerFullError(BrokerError):
    """Redis has reached its ``maxmemory`` and evicts nothing. Nothing was written.

    Workers go on and drain the queues; nothing new comes in until they have made room.
    """


class NotReplicatedError(BrokerError):
    """The task is stored, but fewer replicas than ``min_replicas`` confirmed it in time.

    It runs unless Redis fails over to a replica without it. ``wanted`` replicas were asked for and ``confirmed`` have
    it, as far as Redis told; ``task_id`` and ``queue`` name the task.
    """

    def __init__(
        self,
        text: str = "",
        *,
        task_id: str = "",
        queue: str = "",
        wanted: int = 0,
        confirmed: int = 0,
    ) -> None:
        super().__init__(text)
        self.task_id = task_id
        self.queue = queue
        self.wanted = wanted
        self.confirmed = confirmed


class EmbeddedServerError(AsynqError):
    """No Redis or Valkey server binary was found, or the one found did not start."""


class DuplicateTaskError(AsynqError):
    """The unique lock of the task is held by another task."""


class TaskIdConflictError(AsynqError):
    """The queue already has a task of this id, in whatever state."""


class TaskNotFoundError(AsynqError):
    """The queue has no task of this id."""


class TaskStateError(AsynqError):
    """The task is in a state in which that cannot be done to it, such as running one that is ``active``.

    ``task_id``, ``queue`` and ``state`` (of ``TaskState``, ``""`` where the task is damaged) say which and why.
    """

    def __init__(
        self, text: str = "", *, task_id: str = "", queue: str = "", state: str = ""
    ) -> None:
        super().__init__(text)
        self.task_id = task_id
        self.queue = queue
        self.state = state


class QueueNotFoundError(AsynqError):
    """No queue of this name was ever enqueued to."""


class QueueNotEmptyError(AsynqError):
    """The queue still holds tasks, so it is not removed without force."""


class HandlerNotFoundError(AsynqError):
    """No handler is registered for the type of the task: an ordinary failure, retried."""


class MalformedMessageError(AsynqError):
    """A record in Redis that does not decode; it is set aside with its bytes, never deleted."""


class PayloadError(AsynqError):
    """The payload does not decode into the type asked for.

    Retrying cannot help, so a task that fails with it is archived at once.
    """


class LeaseExpiredError(AsynqError):
    """The lease on a task ran out or passed to another worker while the handler ran."""


class WorkerCrashedError(LeaseExpiredError):
    """The worker died, or was cut off from Redis for long, while it ran the task.

    That is no failure of the task, and uses up no retry; but the third crash in a row archives it as a poison pill.
    """


class DeadlineExceededError(AsynqError):
    """The handler ran past the timeout or the deadline of its task."""


class TaskCancelledError(AsynqError):
    """The running task was cancelled on request."""


class ServerClosedError(AsynqError):
    """The server was shut down; make a new one to start again."""


class ProcessStartError(AsynqError):
    """A process of a supervisor ended again and again before it had started a server; the log has the reasons."""


class SkipRetry(AsynqError):
    """Raised by a handler, or as the ``__cause__`` or in the group of what it raises: archive the task now."""


class RevokeTask(AsynqError):
    """Raised by a handler, or as the ``__cause__`` or in the group of what it raises: drop the task for good."""

"""What locust runs: users who ask a server, each one question after another, and note when every token came.

A locustfile, run in a process of its own (locust replaces Python's sockets by gevent's). The plan is the JSON
in CROSSFOOT_LOADTEST; each answer is a line of JSON in the file that it names.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import time

from locust import User, task
from locust.env import Environment
from locust.exception import StopUser

from crossfoot.processes import end_with
from crossfoot.serving.asking import MOST_FAILURES, ask

PLAN = json.loads(os.environ["CROSSFOOT_LOADTEST"])
end_with(PLAN["parent"], signal.SIGKILL)
_numbers = itertools.count()
_at_work = [0]
_gone = [0]


class AskingUser(User):
    """One who asks `loops` times. They begin evenly over the ramp-up, as JMeter's threads do."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._number = next(_numbers)

    @task
    def ask_all(self) -> None:
        """All loops of this user."""
        time.sleep(self._number * PLAN["ramp_up_seconds"] / PLAN["users"])
        failures = 0
        for loop in range(PLAN["loops"]):
            if failures == MOST_FAILURES:
                break
            number = self._number * PLAN["loops"] + loop
            _at_work[0] += 1
            seen = ask(PLAN, PLAN["prompts"][number % len(PLAN["prompts"])])
            failures = failures + 1 if seen["error"] else 0
            seen |= {"user": self._number, "loop": loop, "at_work": _at_work[0]}
            _at_work[0] -= 1
            with open(PLAN["answers"], "a", encoding="utf-8") as file:
                file.write(json.dumps(seen) + "\n")
        _gone[0] += 1
        if _gone[0] == PLAN["users"] and self.environment.runner is not None:
            self.environment.runner.quit()
        raise StopUser

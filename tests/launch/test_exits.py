"""How runs end: codes, words of the log, several hosts."""

from __future__ import annotations

import pytest

from launch import exits
from launch.cloud import Stage, State, Worker
from launch.exits import Action, Ending
from launch.up import judge
from mof_jax import errors


@pytest.mark.parametrize("code, log, ending", [
    (0, "", Ending.DONE), (1, "error: x", Ending.USER), (2, "usage:", Ending.USER),
    (127, "mof: command not found", Ending.USER),
    (75, "", Ending.PREEMPTED), (143, "", Ending.PREEMPTED), (76, "", Ending.HANG), (77, "", Ending.NON_FINITE),
    (78, "", Ending.OUT_OF_MEMORY), (79, "", Ending.LOST_HOST), (124, "", Ending.DEADLINE),
    # The code is the trainer's word, whatever stands in the log.
    (1, "RESOURCE_EXHAUSTED", Ending.USER), (0, "preempted once", Ending.DONE),
    (70, "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.",
     Ending.OUT_OF_MEMORY),
    (70, "CompileTimeHbmOom: Ran out of memory in memory space hbm. Used 18.20G of 15.75G hbm.", Ending.OUT_OF_MEMORY),
    (70, "FloatingPointError: invalid value (nan) encountered in mul", Ending.NON_FINITE),
    (70, "ValueError: loss is nan at step 12", Ending.NON_FINITE),
    (134, "F0000 Terminating process because the JAX distributed service detected fatal errors. "
          "... Another task died", Ending.LOST_HOST),
    (70, "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats)", Ending.LOST_HOST),
    (134, "[gloo] Connection closed by peer [10.0.0.2]:40000", Ending.LOST_HOST),
    (137, "step 12", Ending.UNKNOWN), (70, "KeyError: 'x'", Ending.UNKNOWN), (134, "", Ending.UNKNOWN),
    (139, "", Ending.UNKNOWN)])
def test_one_process(code, log, ending):
    assert exits.classify(code, log) is ending


def test_the_codes_are_those_of_the_trainer():
    assert {int(code): exits.classify(code) for code in errors.ExitCode if code != errors.ExitCode.INTERNAL_ERROR} == {
        0: Ending.DONE, 1: Ending.USER, 75: Ending.PREEMPTED, 76: Ending.HANG, 77: Ending.NON_FINITE, 78: Ending.OUT_OF_MEMORY,
        79: Ending.LOST_HOST}


@pytest.mark.parametrize("endings, ending", [
    ([Ending.DONE, Ending.DONE], Ending.DONE), ([Ending.DONE, Ending.UNKNOWN], Ending.UNKNOWN),
    ([Ending.LOST_HOST, Ending.OUT_OF_MEMORY, Ending.LOST_HOST], Ending.OUT_OF_MEMORY),
    ([Ending.LOST_HOST, Ending.PREEMPTED], Ending.PREEMPTED), ([Ending.UNKNOWN, Ending.LOST_HOST], Ending.LOST_HOST),
    ([Ending.HANG, Ending.LOST_HOST], Ending.HANG), ([Ending.USER, Ending.LOST_HOST], Ending.USER)])
def test_of_several_hosts_the_cause_counts(endings, ending):
    assert exits.cause(endings) is ending


def test_the_line_names_the_host_at_fault_and_its_last_words():
    found = judge([Worker("w-0", 134, "Connection closed by peer\n"), Worker("w-1", 70, "a\nRESOURCE_EXHAUSTED: hbm\n\n")],
                  State(Stage.READY, "ACTIVE"))
    assert (found.ending, found.reason) == (Ending.OUT_OF_MEMORY, "w-1 ended with 70: RESOURCE_EXHAUSTED: hbm")


def test_every_class_has_a_rule_and_a_policy_goes_over_it():
    assert set(exits.RULES) == set(Ending)
    assert {e: exits.action(e, {}) for e in (Ending.USER, Ending.OUT_OF_MEMORY, Ending.PREEMPTED, Ending.HANG,
                                             Ending.UNKNOWN)} == {
        Ending.USER: Action.STOP, Ending.OUT_OF_MEMORY: Action.STOP, Ending.PREEMPTED: Action.RECREATE,
                                                 Ending.HANG: Action.RECREATE,
        Ending.UNKNOWN: Action.RERUN}
    assert exits.action(Ending.HANG, {"hang": "stop"}) is Action.STOP
    assert exits.stop_codes({}) == [1, 2, 77, 78, 124, 126, 127]

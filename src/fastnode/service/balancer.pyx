"""Which instance of a service gets the next call.

How it works. A `Candidate` is one instance that can take calls. The service keeps a
list of them, and asks a `Balancer` to choose one. The balancer has no clock and no
loop: the service tells it the time.

- "least_outstanding": of two random candidates, the one with fewer calls under way, in
  relation to its weight. This is the power of two choices (Mitzenmacher, 2001). It
  needs no news from the instances, and a slow instance gets less, because its calls
  stay under way for longer. The two are drawn in proportion to their weights, and the
  first of two equals is taken. So the weights hold too while few calls are under way.
- "round_robin": one after the other.
- "weighted": each candidate gets its weight, spread evenly (the smooth weighted round
  robin of nginx).
- With a key: rendezvous hashing (Thaler and Ravishankar, 1998). Every candidate gets a
  score made of the key and of itself, and the highest score wins. If a candidate
  leaves, only its own keys move. The scores follow the weights (Schindelhauer and
  Schomaker, 2005). All processes compute the same scores.

A candidate that is new gets less than its share at first, so that it can warm up. A
candidate that has said that it is busy is passed over for a while. A candidate of
weight 0 gets calls only if no other one can be had.
"""

cimport cython
from libc.math cimport log
from libc.stdint cimport uint64_t

from hashlib import blake2b

from fastnode.errors import ConfigError
from fastnode.limits import SLOW_START_SECONDS

cdef int LEAST_OUTSTANDING = 0
cdef int ROUND_ROBIN = 1
cdef int WEIGHTED = 2

CHOOSERS = {
    "least_outstanding": LEAST_OUTSTANDING,
    "round_robin": ROUND_ROBIN,
    "weighted": WEIGHTED,
}

# The share of a candidate that has just come, as a part of its weight.
cdef double FIRST_SHARE = 0.1
cdef double SLOW_START = SLOW_START_SECONDS
# Load of a candidate with weight 0: more than any other can have.
cdef double HUGE = 1e18
# 2 ** -53: makes a number below 1 of the upper 53 bits of a hash.
cdef double UNIT = 1.0 / 9007199254740992.0


cdef uint64_t mix(uint64_t x) noexcept:
    """The finalizer of splitmix64: all bits of the result depend on all bits of x."""
    x ^= x >> 30
    x *= <uint64_t>0xBF58476D1CE4E5B9
    x ^= x >> 27
    x *= <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


def number_of(bytes data not None):
    """Return a number of 64 bits for some bytes. It is the same in every process."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


@cython.final
cdef class Candidate:
    """One instance of a service that can take calls.

    Args:
        name: the node name of the instance.
        instance: its instance id, 32 hexadecimal digits.
        weight: 1.0 is usual.
    """

    def __init__(self, str name not None, str instance not None, double weight=1.0):
        self.name = name
        self.instance = instance
        self.weight = weight
        self.key = number_of(f"{name} {instance}".encode())

    def warm_up(self, double now):
        """Begin with a small share of the calls, which grows for SLOW_START_SECONDS.

        Args:
            now: seconds, of the clock that the balancer is told.
        """
        self.came_at = now
        self.warm_at = now + SLOW_START

    cdef double share(self, double now) noexcept:
        """The weight, less while the candidate warms up."""
        if now >= self.warm_at:
            return self.weight
        cdef double part = (now - self.came_at) / SLOW_START
        return self.weight * (part if part > FIRST_SHARE else FIRST_SHARE)

    cdef double load(self, double now) noexcept:
        """Calls under way, in relation to the share."""
        cdef double share = self.share(now)
        return self.outstanding / share if share > 0 else HUGE

    def __repr__(self):
        return f"<Candidate {self.name} {self.instance[:8]}>"


@cython.final
cdef class Balancer:
    """Chooses candidates by one policy.

    Args:
        policy: "least_outstanding", "round_robin" or "weighted".
        seed: of the random numbers.

    Raises:
        ConfigError: there is no such policy.
    """

    def __init__(self, str policy not None, uint64_t seed):
        if policy not in CHOOSERS:
            names = ", ".join(f'"{each}"' for each in CHOOSERS)
            raise ConfigError(f"there is no policy {policy!r}", hint=f"use {names}")
        self.policy = policy
        self.chooser = CHOOSERS[policy]
        self.random = mix(seed) | 1
        self.turn = <size_t>self.next_random() >> 8

    cdef uint64_t next_random(self) noexcept:
        """xorshift64* (Vigna, 2016)."""
        cdef uint64_t x = self.random
        x ^= x >> 12
        x ^= x << 25
        x ^= x >> 27
        self.random = x
        return (x * <uint64_t>0x2545F4914F6CDD1D) >> 11

    cdef Candidate choose(self, list candidates, double now):
        """Return the next candidate; None if there is none.

        Args:
            candidates: those that can take calls.
            now: seconds.
        """
        cdef size_t count = <size_t>len(candidates)
        if count == 0:
            return None
        if count == 1:
            return <Candidate>candidates[0]
        if self.chooser == ROUND_ROBIN:
            return self.next_in_turn(candidates, now)
        if self.chooser == WEIGHTED:
            return self.most_behind(candidates, now)
        cdef Candidate first = self.draw(candidates, now, None)
        if first is None:
            return self.least_loaded(candidates, now)
        cdef Candidate second = self.draw(candidates, now, first)
        if second is None or first.load(now) <= second.load(now):
            return first
        return second

    cdef Candidate draw(self, list candidates, double now, Candidate other):
        """Draw a candidate by lot, in proportion to the shares; None if all have share
        0 or are busy.

        Args:
            other: was drawn before, and is left out.
        """
        cdef double total = 0
        cdef Candidate each
        cdef Candidate last = None
        for each in candidates:
            if each is not other and each.busy_until <= now:
                total += each.share(now)
        cdef double point = total * <double>self.next_random() * UNIT
        for each in candidates:
            if each is other or each.busy_until > now or each.weight <= 0:
                continue
            last = each
            point -= each.share(now)
            if point < 0:
                break
        return last

    cdef Candidate least_loaded(self, list candidates, double now):
        """Return the best of all, where every candidate is busy or has weight 0. The
        search begins at a random place, so equals get equal shares."""
        cdef Candidate best = None
        cdef Candidate each
        cdef bint busy = False
        cdef double least = 0
        cdef double load
        cdef size_t count = <size_t>len(candidates)
        cdef size_t begin = <size_t>(self.next_random() % count)
        cdef size_t i
        for i in range(count):
            each = <Candidate>candidates[(begin + i) % count]
            load = each.load(now)
            if (
                best is None
                or (busy and each.busy_until <= now)
                or (busy == (each.busy_until > now) and load < least)
            ):
                best, least, busy = each, load, each.busy_until > now
        return best

    cdef Candidate next_in_turn(self, list candidates, double now):
        cdef size_t count = <size_t>len(candidates)
        cdef Candidate each
        cdef size_t _
        for _ in range(count):
            self.turn += 1
            each = <Candidate>candidates[self.turn % count]
            if each.busy_until <= now and each.weight > 0:
                return each
        return self.least_loaded(candidates, now)

    cdef Candidate most_behind(self, list candidates, double now):
        cdef Candidate best = None
        cdef Candidate each
        cdef double total = 0
        cdef double share
        for each in candidates:
            if each.busy_until > now:
                continue
            share = each.share(now)
            if share <= 0:
                continue
            each.behind += share
            total += share
            if best is None or each.behind > best.behind:
                best = each
        if best is None:
            return self.least_loaded(candidates, now)
        best.behind -= total
        return best

    cdef Candidate choose_by_key(self, list candidates, bytes key, double now):
        """Return the candidate that has the highest score for a key; None if there is
        none. A busy candidate keeps its keys: another one does not have their data.

        Args:
            candidates: those that can take calls.
            key: what has to find the same candidate every time.
            now: seconds.
        """
        cdef uint64_t hashed = number_of(key)
        cdef Candidate best = None
        cdef Candidate each
        cdef double highest = 0
        cdef double score
        cdef double unit
        for each in candidates:
            # From 2 ** -53 to 1, so that the logarithm is finite and not above 0.
            unit = (<double>(mix(hashed ^ each.key) >> 11) + 1) * UNIT
            score = each.weight / -log(unit) if unit < 1 else HUGE
            if best is None or score > highest:
                best, highest = each, score
        return best

    def pick(self, list candidates not None, double now, bytes key=None):
        """Return the candidate for a call; None if there is none.

        Args:
            candidates: those that can take calls.
            now: seconds.
            key: what has to find the same candidate every time, or None.
        """
        if key is not None:
            return self.choose_by_key(candidates, key, now)
        return self.choose(candidates, now)


def in_order(targets, bytes seed not None):
    """Return targets in a random order that depends on the seed and on each target
    alone. So a target that comes or goes does not move the others.

    Args:
        targets: things with a host and a port.
        seed: the same for all calls of one chooser, and another one for each chooser.
    """
    return sorted(
        targets,
        key=lambda each: number_of(seed + f"{each.host} {each.port}".encode()),
    )

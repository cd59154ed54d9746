"""Scalar functions of the CPU backend's loops, in a form that LLVM vectorises, and the decorators of the loops."""

from __future__ import annotations

import math

import numba
import numpy as np
from numba.extending import overload

from pipeline.hmm.numba_cache import cached_njit

FLAGS = {"nnan", "nsz", "contract", "reassoc", "arcp"}
jit = cached_njit(nogil=True, fastmath=FLAGS)
exact = cached_njit(nogil=True)  # for what meets the NaN and inf of inputs
# Loops over frames that make no array: counting references to those they are given would take a third of their time.
frames = cached_njit(nogil=True, fastmath=FLAGS, _nrt=False)


def cast(value, like):
    """value in the type of like."""
    raise NotImplementedError


@overload(cast)
def _cast(value, like):
    if like == numba.float32:
        return lambda value, like: np.float32(value)
    return lambda value, like: np.float64(value)


def exp(x):
    """exp(x) for x <= 0; relative error 3e-7 in float32, and 0 below -86."""
    raise NotImplementedError


@overload(exp, jit_options={"fastmath": FLAGS})
def _exp(x):
    if x != numba.float32:
        return lambda x: math.exp(x)

    def float32(x):
        c = x if x > np.float32(-86.0) else np.float32(-86.0)
        n = np.int32(c * np.float32(1.44269504) - np.float32(0.5))
        f = np.float32(n)
        r = c - f * np.float32(0.693359375) - f * np.float32(-2.12194440e-4)
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        p = p * r * r + r + np.float32(1.0)
        y = p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)
        return y if x > np.float32(-86.0) else np.float32(0.0)

    return float32


def log(y):
    """log(y) for normal y > 0; absolute error 3e-7 in float32."""
    raise NotImplementedError


@overload(log, jit_options={"fastmath": FLAGS})
def _log(y):
    if y != numba.float32:
        return lambda y: math.log(y)

    def float32(y):
        i = np.float32(y).view(np.int32)
        e = np.int32(np.int32(i - np.int32(0x3F3504F3)) >> np.int32(23))
        f = np.int32(i - np.int32(e << np.int32(23))).view(np.float32) - np.float32(1.0)
        p = np.float32(7.0376836292e-2)
        p = p * f + np.float32(-1.1514610310e-1)
        p = p * f + np.float32(1.1676998740e-1)
        p = p * f + np.float32(-1.2420140846e-1)
        p = p * f + np.float32(1.4249322787e-1)
        p = p * f + np.float32(-1.6668057665e-1)
        p = p * f + np.float32(2.0000714765e-1)
        p = p * f + np.float32(-2.4999993993e-1)
        p = p * f + np.float32(3.3333331174e-1)
        r = p * f * f * f + np.float32(e) * np.float32(-2.12194440e-4) - np.float32(0.5) * f * f
        return f + r + np.float32(e) * np.float32(0.693359375)

    return float32


def value(bits, half):
    """The number that an element of the emissions stands for."""
    raise NotImplementedError


@overload(value)
def _value(bits, half):
    if bits != numba.uint16:
        return lambda bits, half: bits

    def widen(bits, half):
        if half == 1:
            return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)
        # Shift the float16 fields into place; 2^112 corrects the exponent's bias, also of subnormals.
        magnitude = np.uint32((np.uint32(bits) & np.uint32(0x7FFF)) << np.uint32(13)).view(np.float32)
        magnitude = magnitude * np.float32(2.0**112)
        if magnitude >= np.float32(65536.0):
            magnitude = np.float32(np.inf)
        return -magnitude if bits & np.uint16(0x8000) else magnitude

    return widen

"""Noise that depends on nothing but (seed, counter, env, column), and sampling from it."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vecsess.collect import sampling
from vecsess.collect.sampling import (
    categorical_log_prob,
    log_softmax,
    normal_noise,
    sample_categorical,
    sample_with_log_prob,
    uniform_noise,
)
from vecsess.errors import VecsessError

seeds = st.integers(0, 2**64 - 1)


def logits_of(dtype: type[np.floating[Any]]) -> st.SearchStrategy[sampling.Floats]:
    shapes = st.tuples(st.integers(1, 40), st.integers(1, 20))
    return hnp.arrays(dtype, shapes, elements=st.floats(-50, 50, width=32))


logit_rows = st.one_of(logits_of(np.float32), logits_of(np.float64))


class TestPhilox:
    # kat_vectors of Random123 (Salmon et al. 2011): counter words, key words, output words.
    KNOWN_ANSWERS = (
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    )  # fmt: skip

    @pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
    def test_gives_the_published_answers(self, counter: str, key: str, expected: str) -> None:
        words = np.array([[int(word, 16)] for word in counter.split()], dtype=np.uint32)
        low, high = (int(word, 16) for word in key.split())
        even, odd = sampling._philox(words, low | high << 32)
        answer = [even[0, 0], odd[0, 0], even[1, 0], odd[1, 0]]
        assert " ".join(f"{word:08x}" for word in answer) == expected


class TestUniformNoise:
    def test_is_float64_in_the_half_open_unit_interval(self) -> None:
        noise = uniform_noise(0, 0, np.arange(1000), 7)
        assert noise.shape == (1000, 7)
        assert noise.dtype == np.float64
        assert noise.min() >= 0.0
        assert noise.max() < 1.0

    @given(seed=seeds, counter=st.integers(0, 2**64 - 20), size=st.integers(0, 5))
    def test_a_row_is_the_same_in_every_subset(self, seed: int, counter: int, size: int) -> None:
        whole = uniform_noise(seed, counter, np.arange(9), size)
        for chosen in ([0], [8, 3], [5, 5, 1], range(9)):
            rows = list(chosen)
            np.testing.assert_array_equal(uniform_noise(seed, counter, rows, size), whole[rows])

    @given(seed=seeds, counter=st.integers(0, 2**64 - 20), size=st.integers(1, 4))
    def test_a_block_of_locksteps_is_their_noise_stacked(
        self, seed: int, counter: int, size: int
    ) -> None:
        block = uniform_noise(seed, counter, [2, 0, 7], size, steps=6)
        single = [uniform_noise(seed, counter + t, [2, 0, 7], size) for t in range(6)]
        np.testing.assert_array_equal(block, np.stack(single))

    def test_more_columns_leave_the_first_ones_as_they_were(self) -> None:
        wide = uniform_noise(3, 4, [0, 1], 6)
        np.testing.assert_array_equal(wide[:, :3], uniform_noise(3, 4, [0, 1], 3))

    @given(
        a=st.tuples(seeds, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)),
        b=st.tuples(seeds, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)),
    )
    def test_another_seed_counter_or_env_gives_other_noise(
        self, a: tuple[int, int, int], b: tuple[int, int, int]
    ) -> None:
        noise = [uniform_noise(seed, counter, [env], 1).item() for seed, counter, env in (a, b)]
        assert (noise[0] == noise[1]) == (a == b)

    def test_is_uniform(self) -> None:
        noise = uniform_noise(11, 0, np.arange(16), 4, steps=2000).ravel()
        counts, _ = np.histogram(noise, bins=100, range=(0, 1))
        chi_squared = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert 60 < chi_squared < 148  # 99 degrees of freedom: outside with probability 0.002

    def test_is_independent_across_columns_envs_counters_and_seeds(self) -> None:
        noise = uniform_noise(5, 0, np.arange(32), 4, steps=1000)
        other_seed = uniform_noise(6, 0, np.arange(32), 4, steps=1000)
        pairs = {
            "columns": (noise[..., 0], noise[..., 1]),
            "blocks": (noise[..., 0], noise[..., 2]),
            "envs": (noise[:, :-1], noise[:, 1:]),
            "counters": (noise[:-1], noise[1:]),
            "seeds": (noise, other_seed),
        }
        for name, (left, right) in pairs.items():
            correlation = np.corrcoef(left.ravel(), right.ravel())[0, 1]
            assert abs(correlation) * np.sqrt(left.size) < 4, name

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((-1, 0, [0], 1), "seed as an integer in"),
            ((2**64, 0, [0], 1), "seed as an integer in"),
            ((0, -1, [0], 1), "counter as an integer in"),
            ((0, 0, [-1], 1), "env indices in"),
            ((0, 0, [0], -1), "noise_size as an integer in"),
        ],
    )
    def test_arguments_out_of_range_are_refused(
        self, arguments: tuple[int, int, list[int], int], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            uniform_noise(*arguments)

    def test_a_fractional_seed_is_refused(self) -> None:
        with pytest.raises(TypeError):
            uniform_noise(1.5, 0, [0], 1)  # type: ignore[arg-type]


class TestNormalNoise:
    def test_has_the_moments_of_independent_standard_normals(self) -> None:
        normal = normal_noise(uniform_noise(2, 0, np.arange(50_000), 2))
        count = len(normal)
        assert np.abs(normal.mean(axis=0)).max() < 4 / np.sqrt(count)
        assert np.abs((normal**2).mean(axis=0) - 1).max() < 4 * np.sqrt(2 / count)
        assert np.abs((normal**4).mean(axis=0) - 3).max() < 4 * np.sqrt(96 / count)
        assert abs((normal[:, 0] * normal[:, 1]).mean()) < 4 / np.sqrt(count)

    def test_is_box_and_mullers_formula(self) -> None:
        normal = normal_noise([[1 - np.exp(-2.0), 0.0], [1 - np.exp(-2.0), 0.25]])
        np.testing.assert_allclose(normal, [[2.0, 0.0], [0.0, 2.0]], atol=1e-12)

    def test_is_finite_at_both_ends_of_the_interval(self) -> None:
        ends = [0.0, 1 - 2.0**-53]
        assert np.isfinite(normal_noise(list(itertools.product(ends, ends)))).all()

    def test_an_odd_number_of_columns_is_refused(self) -> None:
        with pytest.raises(ValueError, match="even number of noise columns, got 3"):
            normal_noise(np.zeros((2, 3)))


class TestCategorical:
    @given(logits=logit_rows, seed=seeds)
    def test_recomputing_the_log_probability_gives_a_ratio_of_exactly_one(
        self, logits: sampling.Floats, seed: int
    ) -> None:
        noise = uniform_noise(seed, 0, np.arange(len(logits)), 1)[:, 0]
        actions, log_probs = sample_with_log_prob(logits, noise)
        again = categorical_log_prob(logits, actions)
        assert again.tobytes() == log_probs.tobytes()
        assert (np.exp(again - log_probs) == 1.0).all()

    @given(logits=logit_rows, data=st.data())
    def test_a_row_is_the_same_bits_whatever_the_number_of_rows_and_their_layout(
        self, logits: sampling.Floats, data: st.DataObject
    ) -> None:
        whole = log_softmax(logits)
        begin = data.draw(st.integers(0, len(logits) - 1))
        end = data.draw(st.integers(begin + 1, len(logits)))
        assert log_softmax(logits[begin:end]).tobytes() == whole[begin:end].tobytes()
        assert log_softmax(logits[begin]).tobytes() == whole[begin].tobytes()
        assert log_softmax(np.asfortranarray(logits)).tobytes() == whole.tobytes()
        assert log_softmax(np.repeat(logits, 2, axis=1)[:, ::2]).tobytes() == whole.tobytes()

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_a_rollouts_log_probability_is_that_of_each_step(
        self, dtype: type[np.floating[Any]]
    ) -> None:
        logits: sampling.Floats = np.random.default_rng(0).normal(size=(128, 16, 6)).astype(dtype)
        noise = uniform_noise(0, 0, np.arange(16), 1, steps=128)[..., 0]
        steps = [sample_with_log_prob(*row) for row in zip(logits, noise, strict=True)]
        actions, log_probs = (np.stack(parts) for parts in zip(*steps, strict=True))
        assert categorical_log_prob(logits, actions).tobytes() == log_probs.tobytes()
        flat = categorical_log_prob(logits.reshape(-1, 6), actions.reshape(-1))
        assert flat.tobytes() == log_probs.tobytes()

    @given(logits=logit_rows)
    def test_log_softmax_is_normalised_and_keeps_the_dtype(self, logits: sampling.Floats) -> None:
        log_probs = log_softmax(logits)
        assert log_probs.dtype == logits.dtype
        tolerance = 1e-5 if logits.dtype == np.float32 else 1e-12
        np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1.0, atol=tolerance)
        differences = log_probs - logits
        np.testing.assert_allclose(differences, differences[:, :1] + 0 * logits, atol=2e-5)

    def test_actions_come_as_often_as_their_probability_says(self) -> None:
        probabilities = np.array([0.5, 0.1, 0.0, 0.4])
        logits = np.log(probabilities, where=probabilities > 0, out=np.full(4, -np.inf))
        noise = uniform_noise(1, 0, np.arange(20_000), 1)[:, 0]
        actions = sample_categorical(np.tile(logits, (20_000, 1)), noise)
        shares = np.bincount(actions, minlength=4) / len(actions)
        assert np.abs(shares - probabilities).max() < 4 * np.sqrt(0.25 / len(actions))
        assert shares[2] == 0

    def test_a_forbidden_action_is_never_taken_not_even_at_the_ends_of_the_noise(self) -> None:
        logits = np.array([[-np.inf, 0.3, -np.inf, 0.1, -np.inf]] * 2)
        assert sample_categorical(logits, [0.0, 1 - 2.0**-53]).tolist() == [1, 3]
        assert categorical_log_prob(logits[:1], [0]).tolist() == [-np.inf]

    @given(count=st.integers(1, 300), scale=st.floats(0, 30))
    def test_the_largest_noise_still_gives_an_action(self, count: int, scale: float) -> None:
        logits = scale * np.sin(np.arange(count, dtype=np.float64))[None]
        assert 0 <= sample_categorical(logits, [1 - 2.0**-53]).item() < count

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_huge_logits_do_not_overflow(self, dtype: type[np.floating[Any]]) -> None:
        logits: sampling.Floats = np.array([[3e4, 0.0], [-3e4, -3e4]], dtype=dtype)
        np.testing.assert_allclose(log_softmax(logits)[:, 0], [0.0, -np.log(2)], rtol=1e-3)

    @pytest.mark.parametrize("bad", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
    def test_logits_that_are_no_distribution_are_refused(self, bad: list[float]) -> None:
        with pytest.raises(VecsessError, match=r"no NaN and no \+inf.*in row 1 \(1 such rows of 3"):
            sample_categorical([[0.0, 1.0], bad, [1.0, 0.0]], [0.5, 0.5, 0.5])

    def test_integer_logits_are_refused(self) -> None:
        with pytest.raises(TypeError, match="floating-point logits, got dtype int64"):
            log_softmax(np.zeros((2, 2), dtype=np.int64))

    def test_logits_without_actions_are_refused(self) -> None:
        with pytest.raises(ValueError, match="A > 0"):
            log_softmax(np.zeros((2, 0)))

    @pytest.mark.parametrize(
        ("actions", "error"),
        [([2, 0], ValueError), ([-1, 0], ValueError), ([0], ValueError), ([0.0, 1.0], TypeError)],
    )
    def test_actions_that_are_none_are_refused(
        self, actions: list[float], error: type[Exception]
    ) -> None:
        with pytest.raises(error, match="expected"):
            categorical_log_prob(np.zeros((2, 2)), actions)

    def test_noise_of_another_shape_is_refused(self) -> None:
        with pytest.raises(ValueError, match="expected noise of shape"):
            sample_categorical(np.zeros((2, 2)), [[0.1], [0.2]])

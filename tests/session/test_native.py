"""The grid world, whose optimum is known in closed form."""

from __future__ import annotations

import itertools

import pytest

from vecsess.session.native import DOWN, LEFT, RIGHT, UP, Cell, GridWorld


def test_a_step_moves_by_one_cell_and_costs_one() -> None:
    world = GridWorld(3, 3)
    for action, cell in ((UP, (0, 1)), (RIGHT, (1, 2)), (DOWN, (2, 1)), (LEFT, (1, 0))):
        after, reward, terminated, truncated = world.step(Cell(1, 1), action)
        assert (after, reward, terminated, truncated) == (Cell(*cell, 1), -1.0, False, False)


def test_the_border_holds() -> None:
    world = GridWorld(2, 2)
    for action in (UP, LEFT):
        assert world.step(Cell(0, 0), action)[0] == Cell(0, 0, 1)


def test_the_last_cell_terminates() -> None:
    assert GridWorld(2, 2).step(Cell(0, 1), DOWN) == (Cell(1, 1, 1), -1.0, True, False)


def test_too_many_steps_truncate_unless_the_last_one_arrives() -> None:
    world = GridWorld(2, 2, max_steps=3)
    assert world.step(Cell(0, 0, 2), UP)[2:] == (False, True)
    assert world.step(Cell(0, 1, 2), DOWN)[2:] == (True, False)


def test_it_is_pure() -> None:
    world, state = GridWorld(2, 2), Cell(0, 0)
    assert world.step(state, RIGHT) == world.step(state, RIGHT)
    assert state == world.initial_state == Cell(0, 0)


def test_an_observation_is_one_hot() -> None:
    world = GridWorld(2, 3)
    observation = world.observe(Cell(1, 0))
    assert observation.tolist() == [0, 0, 0, 1, 0, 0]
    assert world.observation_space.contains(observation)


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.5])
def test_the_closed_form_is_what_value_iteration_finds(gamma: float) -> None:
    world = GridWorld(3, 4)
    cells = [Cell(*place) for place in itertools.product(range(3), range(4))]
    values = dict.fromkeys(cells, 0.0)
    for _ in range(20):  # more sweeps than any shortest path has steps
        for cell in cells:
            if world.distance(cell):
                outcomes = (world.step(cell, action) for action in range(4))
                values[cell] = max(
                    reward + (0.0 if over else gamma * values[after._replace(steps=0)])
                    for after, reward, over, _ in outcomes
                )
    for cell in cells:
        assert world.optimal_return(cell, gamma) == pytest.approx(values[cell])


@pytest.mark.parametrize("size", [(0, 3), (3, -1), (1, 1)])
def test_a_grid_needs_two_cells(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="two cells"):
        GridWorld(*size)

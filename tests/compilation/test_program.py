"""Reading the text of compiled programs, on lines worked by hand."""

import pytest

from personlab_keras.compilation.ahead import search
from personlab_keras.compilation.chips import parse_target
from personlab_keras.compilation.program import Exchange, read_program
from personlab_keras.errors import InputError

PROGRAM = """HloModule step

%fused (x: f32[8]) -> f32[8] {
  %gather.1 = f32[8,2]{1,0:T(8,128)} gather(%a, %b), offset_dims={1}
  ROOT %scatter.1 = f32[8]{0:T(256)} scatter(%a, %b, %c), to_apply=%add
}

ENTRY %main (p: f32[3,5]) -> f32[] {
  %p = f32[3,5]{1,0:T(8,128)} parameter(0)
  %fusion = f32[3,5]{1,0:T(8,128)} fusion(%p), calls=%fused, backend_config={"estimated_cycles":"70"}
  %copy = bf16[3,5]{0,1:T(8,128)(2,1)} copy(%fusion), backend_config={"estimated_cycles":"30"}
  %all-reduce.1 = (f32[4]{0}, f32[2,3]{1,0}) all-reduce(%x, %y), to_apply=%add
  %all-gather-start = (s32[4]{0}, s32[16]{0}) all-gather-start(%z), dimensions={0}
  %all-gather-done = s32[16]{0} all-gather-done(%all-gather-start)
  ROOT %bitcast = pred[15]{0} bitcast(%copy)
}
"""


def test_a_program_is_read():
    program = read_program(PROGRAM)
    assert (program.gathers, program.scatters) == (1, 1)
    # Both arrays of a pair are reduced; of an exchange that is begun and ended, the beginning
    # counts.
    assert program.collectives["all-reduce"] == Exchange(2, 4 * 4 + 4 * 6)
    assert program.collectives["all-gather"].bytes == 4 * (4 + 16)
    # What the entry writes: 15 floats in one tile of 8 x 128, 15 of two bytes in another, whose
    # columns are the rows of the array, and arrays that have no tiles.
    assert program.result_bytes == 4 * 15 + 2 * 15 + (16 + 24) + 64
    assert program.padding_bytes == 4 * (8 * 128 - 15) + 2 * (8 * 128 - 15)
    assert program.estimated_cycles == 100


def test_a_target_is_named_as_libtpu_names_it():
    assert str(parse_target("v5p:2x2x4")) == "v5p:2x2x4"
    assert parse_target("gpu").chip is None
    for text in ("v5e", "v9:2x2", "v5e:4", "v5e:4x4*0", "tpu"):
        with pytest.raises(InputError, match=f"GENERATION:TOPOLOGY.*Received: {text[:3]}"):
            parse_target(text)


@pytest.mark.parametrize("limit", range(0, 40, 3))
@pytest.mark.parametrize("start", [1, 4, 100])
def test_the_largest_number_is_found_in_few_trials(limit, start):
    trials = []

    def needed(number):
        trials.append(number)
        need = 2.0 + number + 0.01 * number**2
        return need if need <= limit else None

    by_counting = max((n for n in range(1, 60) if 2.0 + n + 0.01 * n**2 <= limit), default=0)
    assert search(needed, limit, start) == by_counting
    assert len(trials) == len(set(trials)) <= 10

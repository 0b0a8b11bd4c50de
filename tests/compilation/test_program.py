"""Reading the text of compiled programs, on lines worked by hand."""

import pytest

from personlab_keras.compilation.ahead import search
from personlab_keras.compilation.chips import parse_target
from personlab_keras.compilation.instructions import read_computations
from personlab_keras.compilation.memory_traffic import Traffic, instruction_traffic
from personlab_keras.compilation.program import Exchange, read_program
from personlab_keras.errors import InputError

PROGRAM = """HloModule step

%fused (x: f32[8]) -> f32[8] {
  %gather.1 = f32[8,2]{1,0:T(8,128)} gather(%a, %b), offset_dims={1}
  ROOT %scatter.1 = f32[8]{0:T(256)} scatter(%a, %b, %c), to_apply=%add
}

ENTRY %main (p: f32[3,5], x: f32[4], y: f32[2,3], z: s32[4]) -> f32[] {
  %p = f32[3,5]{1,0:T(8,128)} parameter(0)
  %x = f32[4]{0} parameter(1)
  %y = f32[2,3]{1,0} parameter(2)
  %z = s32[4]{0} parameter(3)
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
    # The fusion and the copy each read and write a tile; what is reduced is read and written.
    tile, reduced = 8 * 128, 16 + 24
    assert program.memory.read == 4 * tile + 4 * tile + reduced + 16
    assert program.memory.written == 4 * tile + 2 * tile + reduced + 64


# A convolution of an image in HBM by weights that were brought into VMEM, a fusion that reads a
# slice of a map and updates a part of another, and a loop.
MEMORY = """HloModule step

%sliced (x: f32[64,1024], y: f32[16,1024], at: s32[]) -> (f32[16,1024], f32[8,1024]) {
  %y = f32[16,1024]{1,0:T(8,128)} parameter(1)
  %x = f32[64,1024]{1,0:T(8,128)} parameter(0)
  %at = s32[]{:T(128)S(6)} parameter(2)
  %first = f32[8,1024]{1,0:T(8,128)} slice(%x), slice={[0:8], [0:1024]}
  %later = f32[8,1024]{1,0:T(8,128)} dynamic-slice(%x, %at, %at), dynamic_slice_sizes={8,1024}
  %sum = f32[8,1024]{1,0:T(8,128)} add(%first, %later)
  %changed = f32[16,1024]{1,0:T(8,128)} dynamic-update-slice(%y, %sum, %at, %at)
  ROOT %both = (f32[16,1024]{1,0:T(8,128)}, f32[8,1024]{1,0:T(8,128)}) tuple(%changed, %sum)
}

%body (p: (s32[], f32[1024])) -> (s32[], f32[1024]) {
  %p = (s32[]{:T(128)S(6)}, f32[1024]{0:T(1024)}) parameter(0)
  %v = f32[1024]{0:T(1024)} get-tuple-element(%p), index=1
  %twice = f32[1024]{0:T(1024)} add(%v, %v)
  ROOT %t = (s32[]{:T(128)S(6)}, f32[1024]{0:T(1024)}) tuple(%p, %twice)
}

%condition (p: (s32[], f32[1024])) -> pred[] {
  ROOT %p = pred[]{:T(512)S(6)} parameter(0)
}

%renaming (i: bf16[8,16,16,64]) -> bf16[8,16,16,64] {
  %i = bf16[8,16,16,64]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  ROOT %r = bf16[8,16,16,64]{3,0,2,1:T(8,128)(2,1)} bitcast(%i)
}

%convolved (i: bf16[8,16,16,64], w: bf16[3,3,64,64]) -> bf16[8,16,16,64] {
  %i = bf16[8,16,16,64]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %renamed = bf16[8,16,16,64]{3,0,2,1:T(8,128)(2,1)} fusion(%i), kind=kLoop, calls=%renaming
  %w = bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %c = bf16[8,16,16,64]{3,0,2,1:T(8,128)(2,1)} convolution(%renamed, %w), window={size=3x3}
}

ENTRY %main (image: bf16[8,16,16,64], w: bf16[3,3,64,64], x: f32[64,1024], y: f32[16,1024]) -> f32[] {
  %image = bf16[8,16,16,64]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %w = bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %x = f32[64,1024]{1,0:T(8,128)} parameter(2)
  %y = f32[16,1024]{1,0:T(8,128)} parameter(3)
  %at = s32[]{:T(128)S(6)} constant(8)
  %copy-start = (bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)S(1)}, bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%w)
  %copy-done = bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %convolution = bf16[8,16,16,64]{3,0,2,1:T(8,128)(2,1)} fusion(%image, %copy-done), kind=kOutput, calls=%convolved
  %slice-start = ((f32[64,1024]{1,0:T(8,128)}), f32[16,1024]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:16], [0:1024]}
  %slice-done = f32[16,1024]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  %updated = (f32[16,1024]{1,0:T(8,128)}, f32[8,1024]{1,0:T(8,128)S(1)}) fusion(%x, %y, %at), kind=kLoop, calls=%sliced
  %beside = f32[16,1024]{1,0:T(8,128)S(1)} add(%slice-done, %slice-done)
  %start = (s32[]{:T(128)S(6)}, f32[1024]{0:T(1024)}) tuple(%at, %at)
  ROOT %loop = (s32[]{:T(128)S(6)}, f32[1024]{0:T(1024)}) while(%start), body=%body, condition=%condition, ROUNDS
}
""".replace("ROUNDS", 'backend_config={"known_trip_count":{"n":"5"}}')


def test_only_what_crosses_the_border_of_the_main_memory_counts():
    computations = read_computations(MEMORY)
    main = computations.by_name["main"]
    moved = {
        name: (traffic.read, traffic.written)
        for name, step in main.items()
        if (traffic := instruction_traffic(computations, main, step)) != Traffic()
    }
    map_bytes = 2 * 8 * 16 * 16 * 128  # 64 channels fill half a tile, and all of it is moved
    row = 4 * 1024
    assert moved == {
        "copy-start": (2 * 9 * 64 * 128, 0),
        "convolution": (map_bytes, map_bytes),
        "slice-start": (16 * row, 0),
        # Two slices of x, and the part of y that changes.
        "updated": (2 * 8 * row, 8 * row),
        "loop": (5 * 2 * row, 5 * row),
    }
    totals = [sum(column) for column in zip(*moved.values(), strict=True)]
    assert read_program(MEMORY).memory == Traffic(*totals)


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

// SPDX-License-Identifier: AGPL-3.0-or-later
// The pixels of an augmented batch: where each lies on its canvas, what is there, and its colour. All that a thread of augment.cu does, in the
// words of any C++ compiler: a test runs it and augment.cu on the CPU, and compares with torch's operations (warp.py, colour.py) to the bit.
//
// Compiled without fused multiply-adds (-fmad=false, -ffp-contract=off): a product is rounded before it is added, as between two of torch's
// operations. The conversions below are exact.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define YOLOV12_EVERYWHERE __host__ __device__ inline
#else
#define YOLOV12_EVERYWHERE inline
#endif
#ifdef __CUDA_ARCH__
#define YOLOV12_UNROLL _Pragma("unroll")
#else
#define YOLOV12_UNROLL
#endif

namespace yolov12_kernels {

constexpr int kChannels = 3;               // blue, green, red
constexpr int kTiles = 4;                  // upper left, upper right, lower left, lower right
constexpr uint32_t kEmptyPixel = 0x727272;  // grey 114 in each channel
constexpr int kFar = 1 << 20;              // a column and a row that no picture reaches

// A picture on the canvas, which shows it in columns [left, right) and rows [top, bottom). Two 16-byte loads.
struct alignas(16) Place {
  int left, top, right, bottom;
  uint64_t origin;  // address that canvas pixel 0, 0 would have in the picture, which may be outside of it
  int width;        // of the picture, in pixels
};

struct alignas(16) Layer {
  Place places[kTiles];  // each on its own side of the seam
  float backward[9];     // from output to canvas, row by row
  int seam_x, seam_y;
};

// ---- numbers: float32 has 24 binary digits, so 2^23 + n has those of a whole n in its lowest bits. Conversions would be slower ----

constexpr float kWhole = 8388608.0f;  // 2^23
constexpr uint32_t kWholeBits = 0x4B000000;

YOLOV12_EVERYWHERE uint32_t bits_of(float number) {
  uint32_t bits;
  memcpy(&bits, &number, sizeof bits);
  return bits;
}

YOLOV12_EVERYWHERE float with_bits(uint32_t bits) {
  float number;
  memcpy(&number, &bits, sizeof number);
  return number;
}

// Byte `index` of a word.
YOLOV12_EVERYWHERE float byte_as_float(uint32_t word, int index) {
#ifdef __CUDA_ARCH__
  return with_bits(__byte_perm(word, kWholeBits, 0x7650 | index)) - kWhole;  // one instruction for the byte and the bits above it
#else
  return with_bits(kWholeBits | (word >> 8 * index & 255)) - kWhole;
#endif
}

// Of a number from 0 to 255, half to even.
YOLOV12_EVERYWHERE uint8_t rounded(float number) { return static_cast<uint8_t>(bits_of(number + kWhole)); }

// ---- reading pictures ----

YOLOV12_EVERYWHERE uint32_t byte_at(uint64_t address) {
#ifdef __CUDA_ARCH__
  return __ldg(reinterpret_cast<const uint8_t*>(address));
#else
  return *reinterpret_cast<const uint8_t*>(address);
#endif
}

YOLOV12_EVERYWHERE uint32_t aligned_word_at(uint64_t address) {
#ifdef __CUDA_ARCH__
  return __ldg(reinterpret_cast<const uint32_t*>(address));
#else
  return *reinterpret_cast<const uint32_t*>(address);
#endif
}

// The four bytes that begin `bits` above the lowest of `low`, and go on in `high`.
YOLOV12_EVERYWHERE uint32_t word_between(uint32_t low, uint32_t high, uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __funnelshift_r(low, high, bits);
#else
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> bits);
#endif
}

// A pixel and its neighbour to the right: six bytes, of which the first is the lowest of `low`, and the last two are the lowest of `high`.
struct Pair {
  uint32_t low, high;
};

// Three words instead of six bytes. Each holds one of the six, so that none lies beyond the memory that the picture is in.
YOLOV12_EVERYWHERE Pair pair_at(uint64_t address) {
  const uint64_t first = address & ~uint64_t{3}, last = (address + 5) & ~uint64_t{3};
  const uint32_t middle = aligned_word_at(first + 4), bits = 8 * (static_cast<uint32_t>(address) & 3);
  return {word_between(aligned_word_at(first), middle, bits), word_between(middle, aligned_word_at(last), bits)};
}

YOLOV12_EVERYWHERE uint64_t address_of(const Place& place, int column, int row) {
  return place.origin + static_cast<uint32_t>(kChannels * (row * place.width + column));
}

// ---- the canvas ----

YOLOV12_EVERYWHERE const Place& place_of(const Layer& layer, int column, int row) {
  return layer.places[(column >= layer.seam_x) + 2 * (row >= layer.seam_y)];
}

YOLOV12_EVERYWHERE uint32_t canvas_pixel(const Layer& layer, int column, int row) {
  const Place& place = place_of(layer, column, row);
  if (column < place.left || column >= place.right || row < place.top || row >= place.bottom) return kEmptyPixel;
  const uint64_t address = address_of(place, column, row);
  return byte_at(address) | byte_at(address + 1) << 8 | byte_at(address + 2) << 16;
}

YOLOV12_EVERYWHERE Pair canvas_pair(const Layer& layer, int column, int row) {
  const uint32_t left = canvas_pixel(layer, column, row), right = canvas_pixel(layer, column + 1, row);
  return {left | right << 24, right >> 8};
}

// A coordinate on the canvas; all that is farther out is as empty, and would not fit into an int.
YOLOV12_EVERYWHERE float within_reach(float x) { return fminf(fmaxf(x, -2.0f), static_cast<float>(kFar)); }

// The canvas at x, y, between its pixels.
YOLOV12_EVERYWHERE void sample(const Layer& layer, float x, float y, uint8_t (&levels)[kChannels]) {
  x = within_reach(x);
  y = within_reach(y);
  const int column = static_cast<int>(floorf(x)), row = static_cast<int>(floorf(y));
  const float beyond_x = x - static_cast<float>(column), beyond_y = y - static_cast<float>(row);
  const float before_x = 1.0f - beyond_x, before_y = 1.0f - beyond_y;
  const float weights[] = {before_x * before_y, beyond_x * before_y, before_x * beyond_y, beyond_x * beyond_y};

  Pair upper, lower;
  const Place place = place_of(layer, column, row);
  if (column >= place.left && column + 1 < place.right && row >= place.top && row + 1 < place.bottom) {
    // All four pixels are of this picture, since it ends at the seam. So are nearly all samples.
    const uint64_t address = address_of(place, column, row);
    upper = pair_at(address);
    lower = pair_at(address + static_cast<uint32_t>(kChannels * place.width));
  } else {
    upper = canvas_pair(layer, column, row);
    lower = canvas_pair(layer, column, row + 1);
  }
  YOLOV12_UNROLL
  for (int c = 0; c < kChannels; ++c) {
    const int right = kChannels + c;  // byte of the right pixel: the first one's are all in `low`
    float sum = weights[0] * byte_as_float(upper.low, c);
    sum += weights[1] * byte_as_float(right < 4 ? upper.low : upper.high, right % 4);
    sum += weights[2] * byte_as_float(lower.low, c);
    sum += weights[3] * byte_as_float(right < 4 ? lower.low : lower.high, right % 4);
    levels[c] = rounded(sum);
  }
}

// Output pixels [first, last) of a column. `rendered` is the layer's, (3, size, size).
template <bool kProjective>
YOLOV12_EVERYWHERE void warp_column(const Layer& layer, int size, int column, int first, int last, uint8_t* rendered) {
  const float* const m = layer.backward;
  const float across = static_cast<float>(column), across_x = m[0] * across, across_y = m[3] * across;
  const int plane = size * size;
  for (int row = first; row < last; ++row) {
    const float down = static_cast<float>(row);
    float x = across_x + (m[1] * down + m[2]), y = across_y + (m[4] * down + m[5]);
    if (kProjective) {
      const float depth = m[6] * across + (m[7] * down + m[8]);
      const float scale = depth == 0.0f ? 0.0f : 1.0f / depth;
      x *= scale;
      y *= scale;
    }
    uint8_t levels[kChannels];
    sample(layer, x, y, levels);
    uint8_t* const to = rendered + row * size + column;
    to[0] = levels[0];
    to[plane] = levels[1];
    to[2 * plane] = levels[2];
  }
}

// ---- colour ----

constexpr int kLevels = 256, kHues = 180, kShift = 12;

// OpenCV's divisions: `top` / n for each level n, with kShift binary digits behind the point, rounded half to even; 0 for 0.
struct Divisions {
  int by_value[kLevels];   // of 255: for the saturation
  int by_chroma[kLevels];  // of 30, a sixth of the circle: for the hue
};

constexpr int divided(int top, int level) {
  const int wide = top << kShift, whole = wide / level, twice_rest = 2 * (wide % level);
  return whole + (twice_rest > level || (twice_rest == level && whole % 2 == 1));
}

constexpr Divisions divisions() {
  Divisions made{};
  for (int level = 1; level < kLevels; ++level) {
    made.by_value[level] = divided(kLevels - 1, level);
    made.by_chroma[level] = divided(kHues / 6, level);
  }
  return made;
}

// What becomes of a hue, a saturation or a value by the batch's gains, in float64 and cut off, as colour.lookup_tables has it.
YOLOV12_EVERYWHERE uint8_t new_level(int which, int level, double gain) {
  if (which == 0) {
    const double turned = level + gain * kHues, rest = fmod(turned, static_cast<double>(kHues));
    return static_cast<uint8_t>(rest < 0.0 ? rest + kHues : rest);
  }
  return static_cast<uint8_t>(fmin(fmax(level * (gain + 1.0), 0.0), kLevels - 1.0));
}

// For one image: what recolouring would compute again for each pixel of the same value, chroma, saturation or hue.
struct ColourTables {
  struct Value {
    int division;
    float bright;
  } by_value[kLevels];
  int by_chroma[kLevels];
  float share_by_saturation[kLevels];
  struct Hue {
    float beyond;        // the beginning of its sixth of the circle
    uint32_t selection;  // for `selected`
  } by_hue[kHues + 1];   // from kLeastHue on
};

constexpr int kLeastHue = -kHues / 6;  // below 0 before it is taken round: from there to 5/6 of the circle

// Which of `candidates` become red, green and blue in a sixth of the circle: their bytes, lowest first.
YOLOV12_EVERYWHERE uint32_t selection_of(int sixth) {
  constexpr uint32_t kBright = 0, kLeast = 1, kFalling = 4, kRising = 5;
  constexpr auto of = [](uint32_t red, uint32_t green, uint32_t blue) { return red | green << 4 | blue << 8; };
  return sixth == 0   ? of(kBright, kRising, kLeast)
         : sixth == 1 ? of(kFalling, kBright, kLeast)
         : sixth == 2 ? of(kLeast, kBright, kRising)
         : sixth == 3 ? of(kLeast, kFalling, kBright)
         : sixth == 4 ? of(kRising, kLeast, kBright)
                      : of(kBright, kLeast, kFalling);
}

// The entries of one level. `levels` is the image's (3, 256): what becomes of each hue, saturation and value.
YOLOV12_EVERYWHERE void fill_tables(ColourTables& tables, int level, const Divisions& divisions, const uint8_t* levels) {
  const auto level_of = [&](int which, int at) { return static_cast<float>(levels[which * kLevels + at]); };
  tables.by_value[level] = {divisions.by_value[level], level_of(2, level) * static_cast<float>(1.0 / 255)};
  tables.by_chroma[level] = divisions.by_chroma[level];
  tables.share_by_saturation[level] = level_of(1, level) * static_cast<float>(1.0 / 255);
  if (level > kHues) return;
  const int hue = level + kLeastHue;
  const float sixths = level_of(0, hue < 0 ? hue + kHues : hue) * static_cast<float>(6.0 / kHues);
  const int sixth = static_cast<int>(sixths);
  tables.by_hue[level] = {sixths - static_cast<float>(sixth), selection_of(sixth)};
}

YOLOV12_EVERYWHERE int larger(int a, int b) { return a > b ? a : b; }
YOLOV12_EVERYWHERE int smaller(int a, int b) { return a < b ? a : b; }

// A word of four bytes of `low`, which are 0 to 3, and `high`, 4 to 7: those that the lowest four digits of `which` name.
YOLOV12_EVERYWHERE uint32_t selected(uint32_t low, uint32_t high, uint32_t which) {
#ifdef __CUDA_ARCH__
  return __byte_perm(low, high, which);
#else
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  uint32_t made = 0;
  for (int i = 0; i < 4; ++i) made |= (both >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
  return made;
#endif
}

// Of a number from 0 to 255, its whole part, in the lowest byte.
YOLOV12_EVERYWHERE uint32_t cut_off(float number) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(__fadd_rz(number, kWhole));
#else
  return static_cast<uint32_t>(number);
#endif
}

// Red, green and blue in the lowest three bytes.
YOLOV12_EVERYWHERE uint32_t recoloured(const ColourTables& tables, int blue, int green, int red) {
  const int value = larger(larger(blue, green), red), chroma = value - smaller(smaller(blue, green), red);
  const ColourTables::Value& by_value = tables.by_value[value];
  constexpr int kHalf = 1 << (kShift - 1);
  const int saturation = (chroma * by_value.division + kHalf) >> kShift;
  int sixth = value == green ? blue - red + 2 * chroma : red - green + 4 * chroma;
  if (value == red) sixth = green - blue;
  const int hue = (sixth * tables.by_chroma[chroma] + kHalf) >> kShift;

  const ColourTables::Hue& by_hue = tables.by_hue[hue - kLeastHue];
  const float share = tables.share_by_saturation[saturation], bright = by_value.bright, beyond = by_hue.beyond;
  const float least = bright * (1.0f - share), falling = bright * (1.0f - share * beyond);
  const float rising = bright * (1.0f - share * (1.0f - beyond));
  const uint32_t flat = selected(cut_off(bright * 255.0f), cut_off(least * 255.0f), 0x40);
  const uint32_t sloping = selected(cut_off(falling * 255.0f), cut_off(rising * 255.0f), 0x40);
  return selected(flat, sloping, by_hue.selection);
}

constexpr int kColourPixels = 16;  // of a thread: one 16-byte load and store for each channel

struct alignas(16) Pixels {
  uint32_t words[kColourPixels / 4];
};

// Pixels [first, first + kColourPixels), or up to `area`, of an image, (3, area) in blue, green, red; into red, green, blue.
// `is_aligned`: all of them are there, and each channel's begin at a multiple of 16 bytes.
YOLOV12_EVERYWHERE void recolour_pixels(const ColourTables& tables, const uint8_t* image, int area, int first, bool is_aligned,
                                        uint8_t* coloured) {
  const uint8_t* const from = image + first;
  uint8_t* const to = coloured + first;
  const int64_t green_plane = area, last_plane = 2 * green_plane;
  if (!is_aligned) {
    for (int i = 0; i < smaller(kColourPixels, area - first); ++i) {
      const uint32_t made = recoloured(tables, from[i], from[green_plane + i], from[last_plane + i]);
      to[i] = static_cast<uint8_t>(made);
      to[green_plane + i] = static_cast<uint8_t>(made >> 8);
      to[last_plane + i] = static_cast<uint8_t>(made >> 16);
    }
    return;
  }
  const Pixels blue = *reinterpret_cast<const Pixels*>(from);
  const Pixels green = *reinterpret_cast<const Pixels*>(from + green_plane);
  const Pixels red = *reinterpret_cast<const Pixels*>(from + last_plane);
  Pixels new_red, new_green, new_blue;
  YOLOV12_UNROLL
  for (int word = 0; word < kColourPixels / 4; ++word) {
    uint32_t made[4];
    YOLOV12_UNROLL
    for (int i = 0; i < 4; ++i) {
      const auto level = [&](const Pixels& pixels) { return static_cast<int>(pixels.words[word] >> 8 * i & 255); };
      made[i] = recoloured(tables, level(blue), level(green), level(red));
    }
    const uint32_t first_two = selected(made[0], made[1], 0x5140), last_two = selected(made[2], made[3], 0x5140);
    new_red.words[word] = selected(first_two, last_two, 0x5410);
    new_green.words[word] = selected(first_two, last_two, 0x7632);
    new_blue.words[word] = selected(selected(made[0], made[1], 0x62), selected(made[2], made[3], 0x62), 0x5410);
  }
  *reinterpret_cast<Pixels*>(to) = new_red;
  *reinterpret_cast<Pixels*>(to + green_plane) = new_green;
  *reinterpret_cast<Pixels*>(to + last_plane) = new_blue;
}

}  // namespace yolov12_kernels

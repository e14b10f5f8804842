/* LeNet++'s layers for draw.html, in WebAssembly with 128-bit vectors.

   clang --target=wasm32 -O3 -msimd128 -ffast-math -fno-builtin -nostdlib -Wl,--no-entry -Wl,--strip-all -o lenet.wasm lenet.c

   Maps lie in memory row by row, the channels of a pixel side by side: (S, W, C), W = S rounded up to a
   multiple of 4 (columns from S on are computed and never read). Kernels: (5, 5, Ci, Co). */

#include <wasm_simd128.h>

#define EXPORT(name) __attribute__((export_name(#name))) name

extern unsigned char __heap_base;
static unsigned long top;

/* Reserves memory for n floats; it is never freed. */
float *EXPORT(reserve)(int n) {
  if (!top) top = ((unsigned long)&__heap_base + 15) & ~15ul;
  unsigned long start = top;
  top += ((unsigned long)n * 4 + 15) & ~15ul;
  long missing = (long)top - (long)(__builtin_wasm_memory_size(0) << 16);
  if (missing > 0) __builtin_wasm_memory_grow(0, (missing + 65535) >> 16);
  return (float *)start;
}

static int width(int side) { return (side + 3) & ~3; }

/* A 5×5 convolution that keeps the size, then PReLU: (S, W, Ci) → (S, W, Co); Co a multiple of 8.
   `padded` has room for (S + 4, W + 4, Ci). */
void EXPORT(convolve)(const float *in, float *padded, const float *kernels, const float *bias, float *out,
                      int side, int inputs, int outputs, float slope) {
  int w = width(side), stride = (w + 4) * inputs;
  for (int i = 0; i < (side + 4) * stride; i++) padded[i] = 0;
  for (int y = 0; y < side; y++)
    for (int i = 0; i < side * inputs; i++) padded[(y + 2) * stride + 2 * inputs + i] = in[y * w * inputs + i];
  v128_t zero = wasm_f32x4_splat(0), factor = wasm_f32x4_splat(slope);
  for (int o = 0; o < outputs; o += 8) {
    v128_t b0 = wasm_v128_load(bias + o), b1 = wasm_v128_load(bias + o + 4);
    for (int y = 0; y < side; y++)
      for (int x = 0; x < w; x += 4) {
        v128_t sum[4][2];
        for (int p = 0; p < 4; p++) sum[p][0] = b0, sum[p][1] = b1;
        for (int r = 0; r < 5; r++) {
          const float *pixel = padded + (y + r) * stride + x * inputs;
          const float *k = kernels + r * 5 * inputs * outputs + o;
          for (int i = 0; i < 5 * inputs; i++, k += outputs) { /* five neighbors lie side by side */
            v128_t k0 = wasm_v128_load(k), k1 = wasm_v128_load(k + 4);
            for (int p = 0; p < 4; p++) {
              v128_t value = wasm_v128_load32_splat(pixel + p * inputs + i);
              sum[p][0] = wasm_f32x4_add(sum[p][0], wasm_f32x4_mul(value, k0));
              sum[p][1] = wasm_f32x4_add(sum[p][1], wasm_f32x4_mul(value, k1));
            }
          }
        }
        for (int p = 0; p < 4; p++)
          for (int half = 0; half < 2; half++) {
            v128_t s = sum[p][half];
            s = wasm_f32x4_add(wasm_f32x4_max(s, zero), wasm_f32x4_mul(factor, wasm_f32x4_min(s, zero)));
            wasm_v128_store(out + (y * w + x + p) * outputs + o + 4 * half, s);
          }
      }
  }
}

/* Max-pooling over size×size with stride 2: (S, W, C) → (T, W', C), T = (S − size) / 2 + 1. */
void EXPORT(pool)(const float *in, float *out, int side, int channels, int size) {
  int w = width(side), small = (side - size) / 2 + 1, v = width(small);
  for (int y = 0; y < small; y++)
    for (int x = 0; x < small; x++)
      for (int c = 0; c < channels; c += 4) {
        v128_t most = wasm_v128_load(in + (2 * y * w + 2 * x) * channels + c);
        for (int i = 0; i < size; i++)
          for (int j = 0; j < size; j++)
            most = wasm_f32x4_max(most, wasm_v128_load(in + ((2 * y + i) * w + 2 * x + j) * channels + c));
        wasm_v128_store(out + (y * v + x) * channels + c, most);
      }
}

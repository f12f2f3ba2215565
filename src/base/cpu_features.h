// What this machine's processor and operating system offer.
#pragma once

namespace m3 {

// Each flag is true only when the operating system saves the registers too.
struct CpuFeatures {
  bool avx2 = false;         // with FMA and F16C
  bool avx512 = false;       // F, BW, DQ, VL
  bool avx512_vnni = false;  // VPDPBUSD, with the above
  bool avx512_bf16 = false;  // VDPBF16PS, with the above
  bool amx_bf16 = false;     // TDPBF16PS; the kernel must still grant the tiles to the process
  bool intel = false;        // who made it
};

CpuFeatures cpu_features();

}  // namespace m3

# One file for each instruction set, with its flags; everything else runs on any x86-64.
function(m3_cpu_isa file)
  set_source_files_properties(
    ${CMAKE_SOURCE_DIR}/src/backend/cpu/${file} TARGET_DIRECTORY m3_backend_cpu
    PROPERTIES COMPILE_OPTIONS "${ARGN}" SKIP_PRECOMPILE_HEADERS ON)
endfunction()

set(M3_AVX2 -mavx2 -mfma -mf16c)
set(M3_AVX512 ${M3_AVX2} -mavx512f -mavx512bw -mavx512dq -mavx512vl)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 takes the deliberately undefined vectors of its own header for mistakes (PR 105593).
  list(APPEND M3_AVX512 -Wno-maybe-uninitialized -Wno-uninitialized)
endif()
if(M3_SANITIZE MATCHES undefined)
  # Its checks make clang take four minutes for each of these files instead of half of one. They are
  # the loops of isa_avx2.cc and isa_x86_64.cc over other vectors.
  list(APPEND M3_AVX512 -fno-sanitize=undefined)
endif()
m3_cpu_isa(isa_avx2.cc ${M3_AVX2})
m3_cpu_isa(isa_avx512.cc ${M3_AVX512})
m3_cpu_isa(isa_avx512_vnni.cc ${M3_AVX512} -mavx512vnni)
m3_cpu_isa(isa_avx512_bf16.cc ${M3_AVX512} -mavx512bf16 -mavx512vnni -mamx-tile -mamx-bf16)
m3_cpu_isa(amx_probe.cc -mamx-tile -mamx-bf16)

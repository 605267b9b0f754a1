// Products of several rows with weights in blocks of 32 (q4_0, q4_1, q8_0) on processors with AMX. patch.py puts this
// file beside mmq.cpp, which includes it inside its namespace.
//
// llama.cpp's own loop unpacks the weights once for every 32 rows, just before they are loaded into a tile, where the
// load has to wait for the stores; it reads a tile's rows from 16 distant places, and adds up in memory. Here the rows
// are laid out as tiles first, the weights of 16 columns are unpacked for 32 blocks and used for all rows, and sums
// stay in registers meanwhile. Up to 16 rows of q4_0 and q4_1 need no tiles: AVX-512 VNNI multiplies them without
// unpacking.
// Weights are prefetched: the processor's own prefetching ends at every 4 KiB.
// Each sum is added up in the same order, so every bit of the result is the same.
//
// Time relative to llama.cpp's loop, one thread, q4_0: 0.47 for 2 rows, 0.48 for 4, 0.46 for 8, 0.31 for 16, 0.37 for
// 32, 0.33 for 96 and 256. Two threads that share a core of the processor gain half of that.
// Not here: a single row, which has a kernel of its own (patch.py lets it prefetch), and K-quants.

constexpr int PANEL_BLOCKS = 32; // of K, whose weights are unpacked at once: 16 KB
constexpr int PREFETCHED = 2048; // bytes between what is computed and what is fetched

inline void prefetch(const char * packed, int size) {
    for (int i = 0; i < size; i += 64) {
        _mm_prefetch(packed + PREFETCHED + i, _MM_HINT_T0);
    }
}

// A block of 16 rows.
template <typename TA>
struct alignas(64) panel_A {
    int8_t qs[TILE_M][TILE_K];
    float d[TILE_M];
    int32_t offset[TILE_M]; // of products with q4_0, whose weights are stored with 8 added
    float s[std::is_same<TA, block_q8_1>::value ? TILE_M : 0];

    void set(int m, const TA & block) {
        memcpy(qs[m], block.qs, TILE_K);
        d[m] = GGML_CPU_FP16_TO_FP32(block.d);
        offset[m] = 0;
        for (int k = 0; k < TILE_K; ++k) {
            offset[m] -= 8 * block.qs[k];
        }
        if constexpr (std::is_same<TA, block_q8_1>::value) {
            s[m] = GGML_CPU_FP16_TO_FP32(block.s);
        }
    }

    void clear(int m) { // a row that is not there: no number that would be slow to add
        d[m] = 0;
        if constexpr (std::is_same<TA, block_q8_1>::value) {
            s[m] = 0;
        }
    }
};

// A block of 16 columns.
template <typename TB>
struct alignas(64) panel_B {
    int8_t qs[TILE_N * TILE_K];
    __m512 d;
    __m512 m;

    void set(const char * packed) {
        prefetch(packed, get_tile_size<TB>());
        const char * scales = packed + TILE_N * sizeof(TB::qs);
        if constexpr (std::is_same<TB, block_q8_0>::value) {
            memcpy(qs, packed, sizeof(qs));
        } else {
            unpack_B<TB>((packed_B_type<TB> *) qs, packed);
        }
        d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) scales));
        if constexpr (std::is_same<TB, block_q4_1>::value) {
            m = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) (scales + TILE_N * sizeof(ggml_half))));
        }
    }
};

// C = A x B for up to ROWS rows and COLS tiles of columns, by AVX-512 VNNI.
template <typename TA, typename TB, int ROWS, int COLS>
void few_rows(const panel_A<TA> * RESTRICT A, const char * RESTRICT packed, int KB,
              float * RESTRICT C, int ldc, int nr) {
    const __m512i low = _mm512_set1_epi8(0xF);
    __m512 sums[COLS][ROWS];
    Unroll<COLS>{}([&](auto n) { Unroll<ROWS>{}([&](auto m) { sums[n][m] = _mm512_setzero_ps(); }); });
    for (int i = 0; i < KB; ++i) {
        Unroll<COLS>{}([&](auto n) {
            const char * b = packed + PACKED_INDEX(n, i, KB, get_tile_size<TB>());
            prefetch(b, get_tile_size<TB>());
            __m512i q[8];
            for (int k = 0; k < 4; ++k) {
                const __m512i bytes = _mm512_loadu_si512((const __m512i *) (b + k * 64));
                q[2 * k] = _mm512_and_si512(bytes, low);
                q[2 * k + 1] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
            }
            const char * scales = b + TILE_N * sizeof(TB::qs);
            const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) scales));
            Unroll<ROWS>{}([&](auto m) {
                __m512i product = _mm512_set1_epi32(std::is_same<TB, block_q4_0>::value ? A[i].offset[m] : 0);
                const int32_t * row = (const int32_t *) A[i].qs[m];
                for (int k = 0; k < 8; ++k) {
                    product = _mm512_dpbusd_epi32(product, q[k], _mm512_set1_epi32(row[k]));
                }
                const __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(A[i].d[m]));
                sums[n][m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), scale, sums[n][m]);
                if constexpr (std::is_same<TB, block_q4_1>::value) {
                    const __m256i mins = _mm256_loadu_si256((const __m256i *) (scales + TILE_N * sizeof(ggml_half)));
                    sums[n][m] = _mm512_fmadd_ps(_mm512_cvtph_ps(mins), _mm512_set1_ps(A[i].s[m]), sums[n][m]);
                }
            });
        });
    }
    for (int m = 0; m < nr; ++m) {
        for (int n = 0; n < COLS; ++n) {
            _mm512_storeu_ps(C + m * ldc + n * TILE_N, sums[n][m]);
        }
    }
}

// C = A x B, or C + A x B where it is not the first of its blocks; nr of ROWS rows are there.
template <typename TA, typename TB, int ROWS>
void panel_multiply(const panel_A<TA> * RESTRICT A, const panel_B<TB> * RESTRICT B, int blocks, bool first,
                    float * RESTRICT C, int ldc, int nr) {
    alignas(64) int32_t tiles[2][TILE_M * TILE_N];
    __m512 sums[ROWS];
    for (int m = 0; m < ROWS; ++m) {
        sums[m] = first || m >= nr ? _mm512_setzero_ps() : _mm512_loadu_ps(C + m * ldc);
    }
    auto multiply = [&](int i) {
        _tile_zero(TMM4);
        _tile_loadd(TMM0, B[i].qs, TILE_N * VNNI_BLK);
        _tile_loadd(TMM2, A[i].qs, TILE_K);
        _tile_dpbssd(TMM4, TMM2, TMM0);
        _tile_stored(TMM4, tiles[i % 2], TILE_N * sizeof(int32_t));
    };
    auto add = [&](int i) {
        Unroll<ROWS>{}([&](auto m) {
            const __m512 product = _mm512_cvtepi32_ps(_mm512_load_si512(tiles[i % 2] + m * TILE_N));
            sums[m] = _mm512_fmadd_ps(product, _mm512_mul_ps(B[i].d, _mm512_set1_ps(A[i].d[m])), sums[m]);
            if constexpr (std::is_same<TB, block_q4_1>::value) {
                sums[m] = _mm512_fmadd_ps(B[i].m, _mm512_set1_ps(A[i].s[m]), sums[m]);
            }
        });
    };
    multiply(0);
    for (int i = 1; i < blocks; ++i) { // the next product is on its way while the last one is added
        multiply(i);
        add(i - 1);
    }
    add(blocks - 1);
    for (int m = 0; m < nr; ++m) {
        _mm512_storeu_ps(C + m * ldc, sums[m]);
    }
}

// Columns begin .. end, in tiles of 16, of C (M, N).
template <typename TA, typename TB>
void panel_columns(const panel_A<TA> * A, const char * packed, float * C, int M, int KB, int ldc, int begin, int end) {
    if constexpr (!std::is_same<TB, block_q8_0>::value) {
        if (M <= TILE_M) {
            for (int n = begin; n < end; ++n) {
                const char * b = packed + PACKED_INDEX(n, 0, KB, get_tile_size<TB>());
                float * c = C + n * TILE_N;
                if (M <= 2 && n + 1 < end) {
                    few_rows<TA, TB, 2, 2>(A, b, KB, c, ldc, M);
                    ++n;
                } else if (M <= 4) {
                    few_rows<TA, TB, 4, 1>(A, b, KB, c, ldc, M);
                } else if (M <= 8) {
                    few_rows<TA, TB, 8, 1>(A, b, KB, c, ldc, M);
                } else {
                    few_rows<TA, TB, 16, 1>(A, b, KB, c, ldc, M);
                }
            }
            return;
        }
    }
    static thread_local panel_B<TB> B[PANEL_BLOCKS];
    for (int n = begin; n < end; ++n) {
        for (int k = 0; k < KB; k += PANEL_BLOCKS) {
            const int blocks = std::min(PANEL_BLOCKS, KB - k);
            for (int i = 0; i < blocks; ++i) {
                B[i].set(packed + PACKED_INDEX(n, k + i, KB, get_tile_size<TB>()));
            }
            for (int m = 0; m < M; m += TILE_M) {
                const panel_A<TA> * a = A + (m / TILE_M) * KB + k;
                float * c = C + m * ldc + n * TILE_N;
                const int nr = std::min(TILE_M, M - m);
                switch (div_up(nr, 4)) {
                    case 1: panel_multiply<TA, TB, 4>(a, B, blocks, k == 0, c, ldc, nr); break;
                    case 2: panel_multiply<TA, TB, 8>(a, B, blocks, k == 0, c, ldc, nr); break;
                    case 3: panel_multiply<TA, TB, 12>(a, B, blocks, k == 0, c, ldc, nr); break;
                    default: panel_multiply<TA, TB, 16>(a, B, blocks, k == 0, c, ldc, nr); break;
                }
            }
        }
    }
}

template <typename TA, typename TB>
void panel_mul_mat(const ggml_compute_params * params, const ggml_tensor * dst) {
    const ggml_tensor * weights = dst->src[0], * rows = dst->src[1];
    const int M = dst->ne[1], N = dst->ne[0], K = weights->ne[0], KB = K / TILE_K;
    auto * A = (panel_A<TA> *) GGML_PAD((uintptr_t) params->wdata, alignof(panel_A<TA>));
    parallel_for_ggml(params, (int) GGML_PAD(M, TILE_M), [&](int begin, int end) {
        static thread_local std::vector<TA> row;
        row.resize(KB);
        for (int m = begin; m < end; ++m) {
            panel_A<TA> * a = A + (m / TILE_M) * KB;
            if (m < M) {
                from_float<TA>((const float *) ((const char *) rows->data + m * rows->nb[1]), (char *) row.data(), K);
            }
            for (int i = 0; i < KB; ++i) {
                if (m < M) {
                    a[i].set(m % TILE_M, row[i]);
                } else {
                    a[i].clear(m % TILE_M);
                }
            }
        }
    });
    ggml_barrier(params->threadpool);
    parallel_for_ggml(params, N / TILE_N, [&](int begin, int end) {
        ggml_tile_config_init();
        const int ldc = dst->nb[1] / dst->nb[0];
        panel_columns<TA, TB>(A, (const char *) weights->data, (float *) dst->data, M, KB, ldc, begin, end);
    });
}

// Bytes of work space; 0 where the product is not for the functions here.
size_t panel_work(const ggml_tensor * dst) {
    const ggml_type type = dst->src[0]->type;
    if (dst->ne[1] == 1 || dst->ne[2] * dst->ne[3] != 1) {
        return 0;
    }
    const size_t blocks = GGML_PAD(dst->ne[1], TILE_M) / TILE_M * (dst->src[0]->ne[0] / TILE_K);
    switch (type) {
        case GGML_TYPE_Q4_0:
        case GGML_TYPE_Q8_0: return (blocks + 1) * sizeof(panel_A<block_q8_0>); // one more to begin at a whole block
        case GGML_TYPE_Q4_1: return (blocks + 1) * sizeof(panel_A<block_q8_1>);
        default: return 0;
    }
}

// Whether it has computed the product.
bool panel_mul_mat(const ggml_compute_params * params, const ggml_tensor * dst) {
    const size_t work = panel_work(dst);
    if (work == 0 || params->wsize < work) {
        return false;
    }
    switch (dst->src[0]->type) {
        case GGML_TYPE_Q4_0: panel_mul_mat<block_q8_0, block_q4_0>(params, dst); return true;
        case GGML_TYPE_Q8_0: panel_mul_mat<block_q8_0, block_q8_0>(params, dst); return true;
        case GGML_TYPE_Q4_1: panel_mul_mat<block_q8_1, block_q4_1>(params, dst); return true;
        default: return false;
    }
}

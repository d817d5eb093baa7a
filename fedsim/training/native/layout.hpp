// Weights from the contract's order into the engine's, and back.
#pragma once

#include "plan.hpp"
#include "vectors.hpp"

namespace fedsim::VARIANT {

static void pack(const Layout& layout, const float* vector, float* image) {
    for (int64_t i = 0; i < layout.count; ++i) {
        const Placement& place = layout.placements[i];
        const int32_t *rows = layout.tables + place.row_table, *columns = layout.tables + place.column_table;
        for (int64_t row = 0; row < place.rows; ++row) {
            float* to = image + place.image + rows[row];
            const float* from = vector + place.vector + row * place.columns;
            for (int64_t column = 0; column < place.columns; ++column) to[columns[column]] = from[column];
        }
    }
}

template <class Number>
static void unpack(const Layout& layout, const Number* image, Number* __restrict vector) {
    for (int64_t i = 0; i < layout.count; ++i) {
        const Placement& place = layout.placements[i];
        const int32_t *rows = layout.tables + place.row_table, *columns = layout.tables + place.column_table;
        for (int64_t row = 0; row < place.rows; ++row) {
            const Number* from = image + place.image + rows[row];
            Number* __restrict to = vector + place.vector + row * place.columns;
            for (int64_t column = 0; column < place.columns; ++column) to[column] = from[columns[column]];
        }
    }
}

}  // namespace fedsim::VARIANT

// Makes one call of the engine's C interface on the processor that it is compiled for. `emulated.py` writes the memory
// that the call needs to a file, and reads there what the call has left in it.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "program.hpp"

using namespace fedsim;

extern "C" {
void* fedsim_open(const char* variant, const Step* steps, int64_t step_count, const Placement* placements,
                  int64_t placement_count, const int32_t* tables, int64_t table_count, const float* image,
                  int64_t image_size, int64_t loss);
void fedsim_close(void* engine);
int fedsim_train(void* engine, const TrainJob* job);
int fedsim_evaluate(void* engine, const EvaluateJob* job);
}

namespace {

// What the file begins with. Wherever an address belongs, here and further on, stands an offset in the file.
struct Call {
    const int64_t* addresses;  // where in the file these offsets stand, other than this one
    int64_t address_count;
    int64_t trains;            // the job is a TrainJob, not an EvaluateJob
    const void* job;
    int64_t status;
    const Step* steps;
    int64_t step_count;
    const Placement* placements;
    int64_t placement_count;
    const int32_t* tables;
    int64_t table_count;
    const float* image;
    int64_t image_size, loss;
};

void turn_into_address(char* memory, int64_t where) {
    int64_t offset;
    std::memcpy(&offset, memory + where, sizeof offset);
    const char* address = memory + offset;
    std::memcpy(memory + where, &address, sizeof address);
}

bool make(char* memory) {
    turn_into_address(memory, offsetof(Call, addresses));
    Call& call = *reinterpret_cast<Call*>(memory);
    for (int64_t i = 0; i < call.address_count; ++i) turn_into_address(memory, call.addresses[i]);
    void* engine = fedsim_open("", call.steps, call.step_count, call.placements, call.placement_count, call.tables,
                               call.table_count, call.image, call.image_size, call.loss);
    if (!engine) return false;
    call.status = call.trains ? fedsim_train(engine, static_cast<const TrainJob*>(call.job))
                              : fedsim_evaluate(engine, static_cast<const EvaluateJob*>(call.job));
    fedsim_close(engine);
    return true;
}

}  // namespace

int main(int, char** arguments) {
    std::FILE* file = std::fopen(arguments[1], "r+b");
    if (!file || std::fseek(file, 0, SEEK_END)) return 1;
    std::vector<char> memory(std::ftell(file));
    std::rewind(file);
    if (std::fread(memory.data(), 1, memory.size(), file) != memory.size() || !make(memory.data())) return 1;
    std::rewind(file);
    return std::fwrite(memory.data(), 1, memory.size(), file) == memory.size() && !std::fclose(file) ? 0 : 1;
}

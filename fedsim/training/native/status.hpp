// What a call of the C interface returns.
#pragma once

namespace fedsim {

enum Status : int {
    kDone = 0,
    kNoSuchRow = 1,  // an order names a row, or a row a class, that does not exist
    kNoMemory = 2,
};

}  // namespace fedsim

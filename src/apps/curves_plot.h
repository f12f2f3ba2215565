// The curves of a training run as a picture: loss, norm of the gradient, learning rate.
#pragma once

#include <string>
#include <vector>

#include "train/run_log.h"

namespace m3 {

// An SVG document; `name` is its title. Many steps are shown by the means of neighbours.
std::string curves_svg(const std::string& name, const std::vector<StepLine>& steps,
                       const std::vector<ValidationLine>& validations);

}  // namespace m3

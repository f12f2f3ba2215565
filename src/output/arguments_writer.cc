#include "output/arguments_writer.h"

#include "base/check.h"
#include "output/argument_scalar.h"

namespace m3 {
namespace {

// Deeper than arguments of people's tools, and shallow enough for recursion.
constexpr std::size_t kElementDepthMax = 100;

constexpr std::string_view kLooseTextKey = "$text";

}  // namespace

ArgumentsWriter::ArgumentsWriter(const ParameterSchema& parameters) {
  frames_.push_back({.form = Form::kObject, .schema = parameters});
}

bool ArgumentsWriter::open(std::string_view key) {
  if (frames_.size() > kElementDepthMax) return false;
  Frame frame = frame_for(std::string(key));
  Frame& parent = frames_.back();
  parent.node.end_text_run();
  ++parent.children;
  frames_.push_back(std::move(frame));
  return true;
}

// How an element inside the innermost one will be written.
ArgumentsWriter::Frame ArgumentsWriter::frame_for(std::string key) {
  Frame& parent = frames_.back();
  Frame frame{.form = parent.form};
  if (parent.form == Form::kObject) {
    frame.schema = parent.schema.member(key);
    if (!parent.known.insert(key).second) frame.form = Form::kDropped;
  } else if (parent.form == Form::kArray) {
    frame.schema = parent.schema.element(parent.children);
  }
  frame.node.key = std::move(key);
  if (frame.form == Form::kComplete || frame.form == Form::kDropped) return frame;
  switch (frame.schema.kind()) {
    case ParameterSchema::Kind::kObject:
      frame.form = Form::kObject;
      break;
    case ParameterSchema::Kind::kArray:
      frame.form = Form::kArray;
      break;
    case ParameterSchema::Kind::kString:
      frame.form = Form::kString;
      break;
    default:
      frame.form = Form::kComplete;
  }
  return frame;
}

void ArgumentsWriter::text(std::string_view text) {
  M3_CHECK(in_element(), "text between the parameters of a call");
  if (text.empty()) return;
  if (in_string()) {
    begin(frames_.size() - 1);
    json_ += json_escaped(text);
  } else if (frames_.back().form != Form::kDropped) {
    frames_.back().node.text += text;
  }
}

bool ArgumentsWriter::close(std::string_view key) {
  std::size_t index = frames_.size() - 1;
  while (index > 0 && frames_[index].node.key != key) --index;
  if (index == 0) return false;
  while (frames_.size() > index) end_innermost();
  return true;
}

void ArgumentsWriter::finish() {
  while (!frames_.empty()) end_innermost();
}

void ArgumentsWriter::abandon() {
  begin(0);
  for (; !frames_.empty(); frames_.pop_back())
    if (frames_.back().begun) write_end(frames_.back());
}

// Comma and key of a value that is about to be written.
void ArgumentsWriter::begin_member(std::size_t index) {
  if (index == 0) return;
  begin(index - 1);
  Frame& parent = frames_[index - 1];
  if (parent.written++ > 0) json_ += ',';
  if (parent.form == Form::kObject) json_ += json_quoted(frames_[index].node.key) + ":";
}

// The first byte of an element that is written as it comes, and of those around it.
void ArgumentsWriter::begin(std::size_t index) {
  if (frames_[index].begun) return;
  begin_member(index);
  Frame& frame = frames_[index];
  frame.begun = true;
  json_ += frame.form == Form::kObject ? '{' : frame.form == Form::kArray ? '[' : '"';
}

void ArgumentsWriter::write_end(const Frame& frame) {
  json_ += frame.form == Form::kObject ? '}' : frame.form == Form::kArray ? ']' : '"';
}

void ArgumentsWriter::write_loose_text() {
  Frame& frame = frames_.back();
  frame.node.end_text_run();
  if (frame.form != Form::kObject || frame.node.loose_text.empty()) return;
  const std::string text = std::move(frame.node.loose_text);
  if (!open(kLooseTextKey)) return;
  Frame& member = frames_.back();
  if (member.form != Form::kDropped) member.form = Form::kString;
  this->text(text);
  end_innermost();
}

void ArgumentsWriter::end_innermost() {
  const std::size_t index = frames_.size() - 1;
  Frame& frame = frames_.back();
  const bool compound = frame.form == Form::kObject || frame.form == Form::kArray;
  if (frame.form == Form::kString || (compound && (frame.children > 0 || index == 0))) {
    write_loose_text();
    begin(index);
    write_end(frames_.back());
  } else if (frame.form == Form::kComplete && frames_[index - 1].form == Form::kComplete) {
    if (frame.children > 0) frame.node.end_text_run();
    frames_[index - 1].node.children.push_back(std::move(frame.node));
  } else if (frame.form != Form::kDropped) {
    if (frame.children > 0) frame.node.end_text_run();
    begin_member(index);
    json_ += argument_json(frame.node, frame.schema, depth());
  }
  frames_.pop_back();
}

}  // namespace m3

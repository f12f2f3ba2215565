#include "checkpoint/safetensors.h"

#include <sys/resource.h>

#include <csignal>
#include <vector>

#include "checkpoint/test_support.h"

namespace m3 {
namespace {

Result<ParsedHeader> parse(std::string_view header, std::size_t data_bytes) {
  const std::string file = safetensors_bytes(header, data_bytes);
  return parse_safetensors_header(std::as_bytes(std::span(file)),
                                  static_cast<std::int64_t>(file.size()), "file");
}

void expect_broken(std::string_view header, std::size_t data_bytes,
                   std::initializer_list<std::string_view> parts) {
  SCOPED_TRACE(header);
  expect_error(parse(header, data_bytes), parts);
}

TEST(SafetensorsHeader, ReadsTypesShapesAndRanges) {
  const auto header = parse(
      R"({"__metadata__":{"format":"pt"},
          "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},
          "a":{"data_offsets":[0,4],"shape":[],"dtype":"F32"}}   )",
      16);
  ASSERT_TRUE(header) << header.error().message;
  ASSERT_EQ(header->tensors.size(), 2u);
  EXPECT_EQ(header->tensors[0].name, "a");  // in order of their data
  EXPECT_TRUE(header->tensors[0].shape.empty());
  EXPECT_EQ(header->tensors[1].dtype, DType::kBF16);
  EXPECT_EQ(header->tensors[1].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(header->tensors[1].begin, 4);
  EXPECT_EQ(header->metadata.at("format"), "pt");
}

TEST(SafetensorsHeader, ReadsEveryType) {
  for (int i = 0; i <= static_cast<int>(DType::kI64); ++i) {
    const auto type = static_cast<DType>(i);
    const auto bytes = 3 * dtype_size(type);
    const auto header =
        parse(fmt::format(R"({{"x":{{"dtype":"{}","shape":[3],"data_offsets":[0,{}]}}}})",
                          dtype_name(type), bytes),
              static_cast<std::size_t>(bytes));
    ASSERT_TRUE(header) << header.error().message;
    EXPECT_EQ(header->tensors[0].dtype, type);
  }
}

TEST(SafetensorsHeader, NamesAPointerThatStandsForTheFile) {
  const std::string_view file = "version https://git-lfs.github.com/spec/v1\noid sha256:00\n";
  expect_error(parse_safetensors_header(std::as_bytes(std::span(file)), std::ssize(file), "shard"),
               {"shard", "git lfs pull"});
}

TEST(SafetensorsHeader, TensorsMayBeEmpty) {
  const auto header = parse(R"({"e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},
                                "a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                                "f":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})",
                            4);
  ASSERT_TRUE(header) << header.error().message;
  EXPECT_EQ(header->tensors.size(), 3u);
  EXPECT_TRUE(parse("{}", 0));
}

TEST(SafetensorsHeader, RefusesImpossibleLengths) {
  const auto with_length = [](std::uint64_t length, std::string_view rest) {
    std::string file(8, '\0');
    std::memcpy(file.data(), &length, sizeof length);
    file += rest;
    return parse_safetensors_header(std::as_bytes(std::span(file)),
                                    static_cast<std::int64_t>(file.size()), "file");
  };
  expect_error(with_length(std::uint64_t{1} << 63, "{}"), {"file", "9223372036854775808"});
  expect_error(with_length(~std::uint64_t{0}, "{}"), {"not a safetensors file"});
  expect_error(with_length(3, "{}"), {"truncated"});
  expect_error(with_length(0, ""), {"JSON"});
  expect_error(parse_safetensors_header({}, 0, "file"), {"too few"});
}

TEST(SafetensorsHeader, RefusesBrokenJson) {
  expect_broken("", 0, {"JSON"});
  expect_broken("{", 0, {"JSON"});
  expect_broken("[]", 0, {"an array"});
  expect_broken("7", 0, {"a number"});
  expect_broken("{} x", 0, {"JSON"});
  expect_broken(R"({"x":3})", 0, {"a number"});
  expect_broken(R"({"x":{"dtype":"F32"}})", 0, {"'x'", "lacks"});
  expect_broken(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":{}}})", 4,
                {"an object"});
  expect_broken(std::string(100000, '['), 0, {"an array"});
  std::string deep = R"({"x":{"shape":)" + std::string(100000, '[');
  expect_broken(deep, 0, {"an array"});
  expect_broken("{\"\xff\":{}}", 0, {"JSON"});
}

TEST(SafetensorsHeader, RefusesWhatATensorCannotBe) {
  expect_broken(R"({"x":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", 8,
                {"'x'", "F64", "BF16"});
  expect_broken(R"({"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, {"negative"});
  expect_broken(R"({"x":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, {"integer"});
  expect_broken(R"({"x":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})", 4, {"a string"});
  expect_broken(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, {"data_offsets"});
  expect_broken(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4, {"data_offsets"});
  expect_broken(R"({"x":{"dtype":"F32","shape":[1,1,1,1,1,1],"data_offsets":[0,4]}})", 4, {"axes"});
  expect_broken(R"({"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
                {"more bytes"});
  expect_broken(R"({"x":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", 4,
                {"2^63"});
  expect_broken(R"({"x":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})", 4,
                {"two fields"});
}

TEST(SafetensorsHeader, RefusesRangesThatDoNotTileTheData) {
  const auto two = [](int a, int b, int c, int d) {
    return fmt::format(R"({{"x":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}},
                            "y":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
                       b - a, a, b, d - c, c, d);
  };
  ASSERT_TRUE(parse(two(0, 4, 4, 8), 8));
  expect_broken(two(0, 4, 3, 7), 7, {"'y'", "overlap"});
  expect_broken(two(0, 4, 5, 8), 8, {"'y'", "hole"});
  expect_broken(two(0, 4, 4, 8), 7, {"'y'", "truncated"});
  expect_broken(two(0, 4, 4, 8), 9, {"foreign bytes"});
  expect_broken(R"({"x":{"dtype":"U8","shape":[4],"data_offsets":[0,5]}})", 5, {"'x'", "needs 4"});
  expect_broken(R"({"x":{"dtype":"U8","shape":[4],"data_offsets":[8,4]}})", 8, {"'x'"});
  expect_broken(R"({"x":{"dtype":"U8","shape":[4],
                         "data_offsets":[9223372036854775804,9223372036854775807]}})",
                4, {"'x'"});
}

TEST(SafetensorsHeader, RefusesTheSameNameTwice) {
  expect_broken(R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                    "x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                2, {"'x'", "twice"});
}

TEST(SafetensorsFile, RefusesWhatIsNoFile) {
  const TestDirectory directory;
  expect_error(SafetensorsFile::open(directory / "absent"), {"absent"});
  expect_error(SafetensorsFile::open(directory.path()), {"regular file"});
  expect_error(SafetensorsFile::open(directory.write("empty", "")), {"empty", "too few"});
  expect_error(SafetensorsFile::open(directory.write("text", "hello, this is text")), {"text"});
}

TEST(SafetensorsFile, ReadsWhatTheWriterWrote) {
  const TestDirectory directory;
  float numbers[] = {1, 2, 3, 4, 5, 6};
  std::uint8_t bytes[] = {7, 8, 9};
  const std::string path = directory / "x.safetensors";
  const auto written = write_safetensors(path, {{"odd \"name\"", Tensor(bytes, DType::kU8, {3})},
                                                {"numbers", Tensor(numbers, DType::kF32, {2, 3})},
                                                {"none", Tensor(bytes, DType::kU8, {0, 4})}});
  ASSERT_TRUE(written) << written.error().message;
  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ((*file)->tensors().size(), 3u);
  EXPECT_EQ((*file)->find("absent"), nullptr);
  const TensorInfo* info = (*file)->find("numbers");
  ASSERT_NE(info, nullptr);
  const Tensor tensor = (*file)->tensor(*info);
  EXPECT_EQ(tensor.describe(), "F32 [2, 3]");
  EXPECT_EQ(std::memcmp(tensor.data, numbers, sizeof numbers), 0);
  const Tensor odd = (*file)->tensor(*(*file)->find("odd \"name\""));
  EXPECT_EQ(odd.as<std::uint8_t>()[2], 9);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(odd.data) % 64, 0u);
}

TEST(SafetensorsWriter, RefusesNamesThatOccurTwice) {
  const TestDirectory directory;
  expect_error(
      SafetensorsWriter::create(directory / "x", {{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}}),
      {"two tensors", "a"});
  expect_error(SafetensorsWriter::create(directory / "x", {{"a", DType::kU8, {-1}}}), {"[-1]"});
}

TEST(SafetensorsWriter, AnUnfinishedFileHasNoName) {
  const TestDirectory directory;
  const std::string path = directory / "x.safetensors";
  {
    auto writer = SafetensorsWriter::create(path, {{"a", DType::kU8, {2}}});
    ASSERT_TRUE(writer);
    const std::byte one[1] = {};
    ASSERT_TRUE(writer->write(one));
    expect_error(writer->finish(), {path, "1 bytes"});
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

// Lets files grow to so many bytes only, as a full disk would.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST(SafetensorsWriter, AFullDiskIsAnErrorAndLeavesNothing) {
  const TestDirectory directory;
  const std::string path = directory / "x.safetensors";
  std::vector<float> numbers(10000);
  Status written;
  {
    const FileSizeLimit limit(4096);
    written = write_safetensors(path, {{"numbers", Tensor(numbers.data(), DType::kF32, {10000})}});
  }
  expect_error(written, {path});
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

}  // namespace
}  // namespace m3

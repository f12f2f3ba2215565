#include "text/tokenizer_file.h"

#include <algorithm>
#include <string>
#include <unordered_map>

#include "text/byte_alphabet.h"
#include "text/json.h"

namespace m3 {
namespace {

// Ids index tables, so a file may leave only so many of them without a token.
constexpr std::size_t kIdHolesMax = 1 << 16;

// ---- Fields.

std::string type_of(const Json& section) {
  const std::string* type = find_string(section, "type");
  return type != nullptr ? *type : "(none)";
}

// Options of other tokenizers that would change the ids.
Status refuse_set(const Json& section, std::string_view where, std::string_view name) {
  const Json* field = find_set_member(section, name);
  if (field == nullptr || *field == false || *field == "" || *field == 0.0) return {};
  return fail("{} sets \"{}\", which this program does not support", where, name);
}

Result<TokenId> id_of(const Json* id, std::string_view token) {
  if (id == nullptr || !id->is_number_integer() || id->get<std::int64_t>() < 0 ||
      *id > std::int64_t{INT32_MAX})
    return fail("the token {} needs an id from 0 to 2^31 - 1, it has {}", python_json(token),
                id == nullptr ? "none" : python_json(*id));
  return id->get<TokenId>();
}

// ---- The sections around the model.

Status check_normalizer(const Json& file) {
  const Json* normalizer = find_set_member(file, "normalizer");
  if (normalizer == nullptr) return {};
  return fail("the normalizer {} is not supported: M3 has none", python_json(type_of(*normalizer)));
}

Status check_decoder(const Json& file) {
  const Json* decoder = find_set_member(file, "decoder");
  if (decoder != nullptr && type_of(*decoder) == "ByteLevel") return {};
  return fail("the decoder must be of type \"ByteLevel\", it is {}",
              decoder == nullptr ? "missing" : python_json(type_of(*decoder)));
}

Status check_byte_level(const Json& step) {
  if (type_of(step) != "ByteLevel")
    return fail("the second pre-tokenizer must be \"ByteLevel\", it is {}",
                python_json(type_of(step)));
  M3_TRY_STATUS(refuse_set(step, "the ByteLevel pre-tokenizer", "add_prefix_space"));
  const Json* use_regex = find_member(step, "use_regex");
  if (use_regex == nullptr || *use_regex != false)
    return fail("the ByteLevel pre-tokenizer must have \"use_regex\": false");
  return {};
}

Result<std::string> split_pattern(const Json& step) {
  if (type_of(step) != "Split")
    return fail("the first pre-tokenizer must be \"Split\", it is {}", python_json(type_of(step)));
  // "Removed" with "invert" keeps the matches alone; M3's patterns leave nothing between them.
  const Json* behavior = find_member(step, "behavior");
  const Json* invert = find_set_member(step, "invert");
  const bool inverted = invert != nullptr && *invert == true;
  if (behavior == nullptr || *behavior != (inverted ? "Removed" : "Isolated"))
    return fail("the Split pre-tokenizer must have \"behavior\": \"Isolated\"");
  const Json* pattern = find_member(step, "pattern");
  const std::string* regex = pattern == nullptr ? nullptr : find_string(*pattern, "Regex");
  if (regex == nullptr) return fail("the Split pre-tokenizer must have a pattern with a \"Regex\"");
  return *regex;
}

Result<std::string> read_pattern(const Json& file) {
  const Json* pre = find_set_member(file, "pre_tokenizer");
  const Json* steps = pre == nullptr ? nullptr : find_member(*pre, "pretokenizers");
  if (steps == nullptr || type_of(*pre) != "Sequence" || !steps->is_array() || steps->size() != 2)
    return fail("the pre_tokenizer must be a \"Sequence\" of \"Split\" and \"ByteLevel\"");
  M3_TRY_STATUS(check_byte_level((*steps)[1]));
  return split_pattern((*steps)[0]);
}

// ---- The model.

// The vocabulary by its spelling in the file, where each byte is a printable character.
using Spellings = std::unordered_map<std::string_view, TokenId>;

Result<Spellings> read_vocabulary(const Json& model, TokenizerFile& out) {
  const Json* vocab = find_member(model, "vocab");
  if (vocab == nullptr || !vocab->is_object())
    return fail("the model needs a \"vocab\" that is an object of ids");
  Spellings spellings;
  spellings.reserve(vocab->size());
  for (const auto& [spelling, id] : *vocab->get_ptr<const Json::object_t*>()) {
    M3_TRY(const TokenId read, id_of(&id, spelling));
    out.tokens.push_back({read, bytes_of_spelling(spelling)});
    spellings.emplace(spelling, read);
  }
  return spellings;
}

Status read_byte_ids(const Spellings& spellings, TokenizerFile& out) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto it = spellings.find(spelling_of_byte(static_cast<std::uint8_t>(byte)));
    if (it == spellings.end())
      return fail("the vocabulary has no token for the byte 0x{:02X}", byte);
    out.byte_ids[static_cast<std::size_t>(byte)] = it->second;
  }
  return {};
}

struct Halves {
  std::string_view left, right;
};

Result<Halves> merge_halves(const Json& merge, std::size_t rank) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return Halves{merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
  if (merge.is_string()) {
    const std::string_view line = merge.get_ref<const std::string&>();
    const std::size_t space = line.find(' ');
    if (space != line.npos && line.find(' ', space + 1) == line.npos)
      return Halves{line.substr(0, space), line.substr(space + 1)};
  }
  return fail("merge {} must be a pair of tokens or \"left right\", it is {}", rank,
              python_json(merge));
}

Status read_merges(const Json& model, const Spellings& spellings, TokenizerFile& out) {
  const Json* merges = find_member(model, "merges");
  if (merges == nullptr || !merges->is_array()) return fail("the model needs a list of \"merges\"");
  out.merges.reserve(merges->size());
  for (std::size_t rank = 0; rank < merges->size(); ++rank) {
    M3_TRY(const Halves halves, merge_halves((*merges)[rank], rank));
    const std::string merged = std::string(halves.left) + std::string(halves.right);
    TokenId ids[3];
    int found = 0;
    for (const std::string_view spelling : {halves.left, halves.right, std::string_view(merged)}) {
      const auto it = spellings.find(spelling);
      if (it == spellings.end())
        return fail("merge {} names {}, which is not in the vocabulary", rank,
                    python_json(spelling));
      ids[found++] = it->second;
    }
    out.merges.push_back({ids[0], ids[1], ids[2]});
  }
  return {};
}

Status read_model(const Json& file, TokenizerFile& out) {
  const Json* model = find_member(file, "model");
  if (model == nullptr || type_of(*model) != "BPE")
    return fail("the model must be of type \"BPE\", it is {}",
                model == nullptr ? "missing" : python_json(type_of(*model)));
  for (const std::string_view option :
       {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"})
    M3_TRY_STATUS(refuse_set(*model, "the model", option));
  M3_TRY(out.ignore_merges, read_flag(*model, "ignore_merges", false));
  M3_TRY(const Spellings spellings, read_vocabulary(*model, out));
  M3_TRY_STATUS(read_byte_ids(spellings, out));
  return read_merges(*model, spellings, out);
}

// ---- Added tokens.

Result<AddedToken> read_added_token(const Json& entry) {
  const std::string* content = find_string(entry, "content");
  if (content == nullptr || content->empty())
    return fail("each of \"added_tokens\" needs a \"content\" that is a string");
  M3_TRY(const TokenId id, id_of(find_member(entry, "id"), *content));
  for (const std::string_view option : {"single_word", "lstrip", "rstrip"})
    M3_TRY_STATUS(refuse_set(entry, "the added token " + python_json(*content), option));
  M3_TRY(const bool special, read_flag(entry, "special", false));
  return AddedToken{id, *content, special};
}

Status read_added_tokens(const Json& file, TokenizerFile& out) {
  const Json* entries = find_set_member(file, "added_tokens");
  if (entries == nullptr) return {};
  if (!entries->is_array())
    return fail("\"added_tokens\" must be a list, it is {}", kind_name(*entries));
  for (const Json& entry : *entries) {
    M3_TRY(AddedToken token, read_added_token(entry));
    out.added.push_back(std::move(token));
  }
  return {};
}

// An added token may be in the base vocabulary as well; any other id belongs to one token.
Status check_ids(TokenizerFile& file) {
  std::unordered_map<TokenId, std::string_view> owners;
  std::unordered_map<std::string_view, TokenId> contents;
  owners.reserve(file.tokens.size() + file.added.size());
  contents.reserve(file.tokens.size() + file.added.size());
  const auto claim = [&](TokenId id, const std::string& bytes) -> Status {
    const auto [owner, fresh] = owners.emplace(id, bytes);
    if (!fresh && owner->second != bytes) return fail("two tokens have the id {}", id);
    file.ids_end = std::max(file.ids_end, static_cast<std::size_t>(id) + 1);
    return {};
  };
  for (const auto& token : file.tokens) {
    M3_TRY_STATUS(claim(token.id, token.bytes));
    contents.emplace(token.bytes, token.id);
  }
  for (const auto& token : file.added) {
    M3_TRY_STATUS(claim(token.id, token.content));
    if (contents.emplace(token.content, token.id).first->second != token.id)
      return fail("the added token {} has two ids", python_json(token.content));
  }
  if (file.ids_end > owners.size() + kIdHolesMax)
    return fail("the highest id is {}, too far above the number of tokens, {}", file.ids_end - 1,
                owners.size());
  return {};
}

}  // namespace

Result<TokenizerFile> parse_tokenizer_file(std::string_view json) {
  M3_TRY(const Json file, parse_json(json));
  if (!file.is_object()) return fail("expected an object, found {}", kind_name(file));
  TokenizerFile out;
  M3_TRY_STATUS(check_normalizer(file));
  M3_TRY_STATUS(check_decoder(file));
  M3_TRY(out.pattern, read_pattern(file));
  M3_TRY_STATUS(read_model(file, out));
  M3_TRY_STATUS(read_added_tokens(file, out));
  M3_TRY_STATUS(check_ids(out));
  return out;
}

}  // namespace m3

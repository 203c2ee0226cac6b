#include <boost/test/unit_test.hpp>

#include "actors/gateway/request_plan.h"
#include "tests/actors/gateway/gateway_fixture.h"

using namespace troupe;
using troupe::testing::byte_model;
using troupe::testing::id_model;

BOOST_AUTO_TEST_SUITE(request)

struct Malformed {
  const char* body;
  const char* param;
  ErrorCode code = ErrorCode::kInvalidArgument;
};

static const std::string kChat = R"("model":"byte-model","messages":[{"role":"user","content":"hi"}])";
static const std::string kCompletion = R"("model":"byte-model","prompt":"hi")";

static std::string with(const std::string& base, const std::string& field) { return "{" + base + "," + field + "}"; }

BOOST_AUTO_TEST_CASE(a_malformed_chat_request_names_its_parameter) {
  const auto model = byte_model();
  const Malformed cases[] = {
      {R"("temperature":2.1)", "temperature"},
      {R"("temperature":-1)", "temperature"},
      {R"("temperature":"1")", "temperature"},
      {R"("temperature":1e999)", "temperature"},
      {R"("temperature":true)", "temperature"},
      {R"("top_p":0)", "top_p"},
      {R"("top_p":1e-60)", "top_p"},
      {R"("top_p":1.5)", "top_p"},
      {R"("top_k":1.5)", "top_k"},
      {R"("top_k":-2)", "top_k"},
      {R"("min_p":-0.1)", "min_p"},
      {R"("repetition_penalty":0)", "repetition_penalty"},
      {R"("presence_penalty":2.5)", "presence_penalty"},
      {R"("frequency_penalty":-3)", "frequency_penalty"},
      {R"("seed":1.5)", "seed"},
      {R"("seed":1e30)", "seed"},
      {R"("seed":"7")", "seed"},
      {R"("max_tokens":0)", "max_tokens"},
      {R"("max_tokens":-1)", "max_tokens"},
      {R"("max_tokens":"5")", "max_tokens"},
      {R"("max_tokens":99999999999999999999)", "max_tokens"},
      {R"("max_completion_tokens":0)", "max_completion_tokens"},
      {R"("max_tokens":3,"max_completion_tokens":4)", "max_tokens"},
      {R"("min_tokens":5,"max_tokens":4)", "min_tokens"},
      {R"("stop":"")", "stop"},
      {R"("stop":7)", "stop"},
      {R"("stop":["a",7])", "stop[1]"},
      {R"("stop":["a",""])", "stop[1]"},
      {R"("stop_token_ids":[1,258])", "stop_token_ids[1]"},
      {R"("stop_token_ids":5)", "stop_token_ids"},
      {R"("logit_bias":{"5":101})", "logit_bias"},
      {R"("logit_bias":{"258":1})", "logit_bias"},
      {R"("logit_bias":{"-1":1})", "logit_bias"},
      {R"("logit_bias":{"05":1})", "logit_bias"},
      {R"("logit_bias":{"x":1})", "logit_bias"},
      {R"("logit_bias":{"5":"1"})", "logit_bias"},
      {R"("logit_bias":[1])", "logit_bias"},
      {R"("logprobs":1)", "logprobs"},
      {R"("logprobs":true,"top_logprobs":21)", "top_logprobs"},
      {R"("top_logprobs":3)", "top_logprobs"},
      {R"("stream":"yes")", "stream"},
      {R"("stream_options":{"include_usage":true})", "stream_options"},
      {R"("stream":true,"stream_options":{"include_usage":1})", "stream_options.include_usage"},
      {R"("stream":true,"stream_options":[])", "stream_options"},
      {R"("user":5)", "user"},
      {R"("ignore_eos":"no")", "ignore_eos"},
      {R"("return_token_ids":0)", "return_token_ids"},
      {R"("cache_salt":7)", "cache_salt"},
      {R"("priority":101)", "priority"},
      {R"("priority":-101)", "priority"},
      {R"("priority":0.5)", "priority"},
      {R"("priority":"high")", "priority"},
      {R"("timeout":0)", "timeout"},
      {R"("timeout":-1)", "timeout"},
      {R"("timeout":86401)", "timeout"},
      {R"("timeout":"5")", "timeout"},
      {R"("n":0)", "n"},
      {R"("n":"1")", "n"},
      {R"("n":129)", "n"},
      {R"("n":1.5)", "n"},
      {R"("best_of":2)", "best_of", ErrorCode::kUnsupported},
      {R"("n":2,"best_of":3)", "best_of", ErrorCode::kUnsupported},
      {R"("response_format":{"type":"json_object"})", "response_format", ErrorCode::kUnsupported},
      {R"("tools":[{"type":"function"}])", "tools", ErrorCode::kUnsupported},
      {R"("functions":[{}])", "functions", ErrorCode::kUnsupported},
      {R"("tool_choice":"required")", "tool_choice", ErrorCode::kUnsupported},
      {R"("modalities":["audio"])", "modalities", ErrorCode::kUnsupported},
      {R"("audio":{"voice":"x"})", "audio", ErrorCode::kUnsupported},
      {R"("guided_json":{"a":1})", "guided_json", ErrorCode::kUnsupported},
      {R"("temperature":1,"temperature":2)", "temperature"},
  };
  for (const Malformed& wrong : cases) {
    BOOST_TEST_CONTEXT(wrong.body) {
      const auto plan = plan_chat(with(kChat, wrong.body), *model, Limits{});
      BOOST_REQUIRE(!plan.ok());
      BOOST_TEST(plan.error().param == wrong.param);
      BOOST_TEST((plan.error().code == wrong.code));
    }
  }
}

BOOST_AUTO_TEST_CASE(malformed_messages_name_the_message) {
  const auto model = byte_model();
  const Malformed cases[] = {
      {R"({"model":"byte-model"})", "messages"},
      {R"({"messages":[{"role":"user","content":"x"}]})", "model"},
      {R"({"model":5,"messages":[{"role":"user","content":"x"}]})", "model"},
      {R"({"model":"m","messages":[]})", "messages"},
      {R"({"model":"m","messages":"hi"})", "messages"},
      {R"({"model":"m","messages":["hi"]})", "messages[0]"},
      {R"({"model":"m","messages":[{"content":"x"}]})", "messages[0].role"},
      {R"({"model":"m","messages":[{"role":1,"content":"x"}]})", "messages[0].role"},
      {R"({"model":"m","messages":[{"role":"user","content":"x"},{"role":"user"}]})", "messages[1].content"},
      {R"({"model":"m","messages":[{"role":"user","content":5}]})", "messages[0].content"},
      {R"({"model":"m","messages":[{"role":"user","content":["x"]}]})", "messages[0].content[0]"},
      {R"({"model":"m","messages":[{"role":"user","content":[{"type":"text"}]}]})", "messages[0].content[0].text"},
      {R"({"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}]})", "messages[0].content[0].type",
       ErrorCode::kUnsupported},
      {R"({"model":"m","messages":[{"role":"assistant","content":"x","tool_calls":[{}]}]})", "messages[0].tool_calls",
       ErrorCode::kUnsupported},
      {R"([1])", ""},
      {R"({"a":1} x)", ""},
      {R"({"a":NaN})", ""},
      {"{\"a\":\"\xff\"}", ""},
      {"", ""},
  };
  for (const Malformed& wrong : cases) {
    BOOST_TEST_CONTEXT(wrong.body) {
      const auto plan = plan_chat(wrong.body, *model, Limits{});
      BOOST_REQUIRE(!plan.ok());
      BOOST_TEST(plan.error().param == wrong.param);
      BOOST_TEST((plan.error().code == wrong.code));
    }
  }
}

BOOST_AUTO_TEST_CASE(broken_json_is_refused_with_its_offset) {
  const auto model = byte_model();
  BOOST_TEST(plan_chat(R"({"a":tru})", *model, Limits{}).error().message.find("at byte 5") != std::string::npos);
  std::string deep = R"({"a":)";
  for (int i = 0; i < 40; ++i) deep += '[';
  BOOST_TEST(plan_chat(deep, *model, Limits{}).error().message.find("json_depth") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_malformed_completion_request_names_its_parameter) {
  const auto model = byte_model();
  const Malformed cases[] = {
      {R"({"model":"m"})", "prompt"},
      {R"({"model":"m","prompt":[]})", "prompt"},
      {R"({"model":"m","prompt":5})", "prompt"},
      {R"({"model":"m","prompt":[1,258]})", "prompt[1]"},
      {R"({"model":"m","prompt":[1,-1]})", "prompt[1]"},
      {R"({"model":"m","prompt":[1,"a"]})", "prompt[1]"},
      {R"({"model":"m","prompt":[1,1.5]})", "prompt[1]"},
      {R"({"model":"m","prompt":["a",1]})", "prompt[1]"},
      {R"({"model":"m","prompt":[[1],[]]})", "prompt[1]"},
      {R"({"model":"m","prompt":[[1],"a"]})", "prompt[1]"},
      {R"({"model":"m","prompt":[[1],[2,999]]})", "prompt[1][1]"},
      {R"({"model":"m","prompt":[{}]})", "prompt[0]"},
      {R"({"model":"m","prompt":"a","logprobs":21})", "logprobs"},
      {R"({"model":"m","prompt":"a","logprobs":true})", "logprobs"},
      {R"({"model":"m","prompt":"a","max_tokens":0})", "max_tokens"},
      {R"({"model":"m","prompt":"a","echo":1})", "echo"},
      {R"({"model":"m","prompt":"a","suffix":"b"})", "suffix", ErrorCode::kUnsupported},
      {R"({"model":"m","prompt":"a","best_of":2})", "best_of", ErrorCode::kUnsupported},
  };
  for (const Malformed& wrong : cases) {
    BOOST_TEST_CONTEXT(wrong.body) {
      const auto plan = plan_completion(wrong.body, *model, Limits{});
      BOOST_REQUIRE(!plan.ok());
      BOOST_TEST(plan.error().param == wrong.param);
      BOOST_TEST((plan.error().code == wrong.code));
    }
  }
}

BOOST_AUTO_TEST_CASE(lists_beyond_their_limits_are_refused_by_name) {
  const auto model = byte_model();
  Limits limits;
  limits.stop_strings = 1;
  limits.stop_string_bytes = 3;
  limits.stop_tokens = 1;
  limits.logit_bias_entries = 1;
  limits.prompts_per_request = 1;
  limits.cache_salt_bytes = 3;
  const auto message = [&](const std::string& field) {
    const auto plan = plan_completion(with(R"("model":"m")", field), *model, limits);
    return plan.ok() ? std::string() : plan.error().message;
  };
  BOOST_TEST(message(R"("prompt":"a","stop":["a","b"])").find("stop_strings") != std::string::npos);
  BOOST_TEST(message(R"("prompt":"a","stop":"abcd")").find("stop_string_bytes") != std::string::npos);
  BOOST_TEST(message(R"("prompt":"a","stop_token_ids":[1,2])").find("stop_tokens") != std::string::npos);
  BOOST_TEST(message(R"("prompt":"a","logit_bias":{"1":1,"2":1})").find("logit_bias_entries") != std::string::npos);
  BOOST_TEST(message(R"("prompt":["a","b"])").find("prompts_per_request") != std::string::npos);
  BOOST_TEST(message(R"("prompt":"a","cache_salt":"abcd")").find("cache_salt_bytes") != std::string::npos);
  BOOST_TEST(message(R"("prompt":"a","cache_salt":"abc")").empty());
}

BOOST_AUTO_TEST_CASE(every_sampling_parameter_and_the_cache_salt_reach_the_scheduler) {
  const auto model = byte_model();
  auto plan = plan_completion(
      with(kCompletion,
           R"("temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.1,"repetition_penalty":1.2,)"
           R"("presence_penalty":0.3,"frequency_penalty":-0.4,"seed":-1,"logit_bias":{"7":-100},)"
           R"("stop_token_ids":[9],"min_tokens":2,"max_tokens":8,"logprobs":3,"echo":true,"cache_salt":"tenant")"),
      *model, Limits{});
  BOOST_REQUIRE(plan.ok());
  BOOST_REQUIRE(!fit_lengths(*plan, *model));
  const auto generate = generate_message(*plan, 0, 42, 1'500).read();
  const auto sampling = generate->getSampling();
  BOOST_TEST(generate->getRequest() == 42u);
  BOOST_TEST(generate->getTokens().size() == 2u);
  BOOST_TEST(generate->getTokens()[0] == static_cast<std::uint32_t>('h'));
  BOOST_TEST(generate->getMaxTokens() == 8u);
  BOOST_TEST(generate->getMinTokens() == 2u);
  BOOST_REQUIRE(generate->getStopTokens().size() == 2u);
  BOOST_TEST(generate->getStopTokens()[0] == testing::kImEnd);
  BOOST_TEST(generate->getStopTokens()[1] == 9u);
  BOOST_TEST(generate->getCacheSalt().cStr() == std::string("tenant"));
  BOOST_TEST(sampling.getTemperature() == 0.5f);
  BOOST_TEST(sampling.getTopP() == 0.9f);
  BOOST_TEST(sampling.getTopK() == 40u);
  BOOST_TEST(sampling.getMinP() == 0.1f);
  BOOST_TEST(sampling.getRepetitionPenalty() == 1.2f);
  BOOST_TEST(sampling.getPresencePenalty() == 0.3f);
  BOOST_TEST(sampling.getFrequencyPenalty() == -0.4f);
  BOOST_TEST(sampling.getSeed() == ~std::uint64_t{0});
  BOOST_REQUIRE(sampling.getLogitBias().size() == 1u);
  BOOST_TEST(sampling.getLogitBias()[0].getToken() == 7u);
  BOOST_TEST(sampling.getLogitBias()[0].getBias() == -100.0f);
  BOOST_TEST(sampling.getLogprobs());
  BOOST_TEST(sampling.getTopLogprobs() == 3u);
  BOOST_TEST(sampling.getPromptLogprobs());
}

BOOST_AUTO_TEST_CASE(ignore_eos_leaves_only_the_stop_tokens_of_the_request) {
  const auto model = byte_model();
  auto plan = plan_chat(with(kChat, R"("ignore_eos":true,"stop_token_ids":[3])"), *model, Limits{});
  BOOST_REQUIRE(plan.ok());
  const auto generate = plan->options.blueprint.read();
  BOOST_REQUIRE(generate->getStopTokens().size() == 1u);
  BOOST_TEST(generate->getStopTokens()[0] == 3u);
}

BOOST_AUTO_TEST_CASE(a_chat_becomes_a_chatml_prompt) {
  const auto model = byte_model();
  auto plan = plan_chat(
      R"({"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]})",
      *model, Limits{});
  BOOST_REQUIRE(plan.ok());
  BOOST_TEST(plan->prompts[0].text == "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n");
  BOOST_TEST(plan->prompts[0].tokens.front() == 256u);
}

BOOST_AUTO_TEST_CASE(arguments_for_the_chat_template_reach_it) {
  const auto model = byte_model();
  model->chat_template = text::ChatTemplate::parse(
      "{{ messages[0].content }} {{ a }} {{ b.c[1] }} {{ missing is defined }} {{ none_given is none }}", "t");
  BOOST_REQUIRE(model->chat_template.ok());
  const auto plan = plan_chat(with(kChat, R"("chat_template_kwargs":{"a":false,"b":{"c":[1,2.5]},"none_given":null})"),
                              *model, Limits{});
  BOOST_REQUIRE_MESSAGE(plan.ok(), (plan.ok() ? "" : plan.error().message));
  BOOST_TEST(plan->prompts[0].text.ends_with(" False 2.5 False True"), plan->prompts[0].text);
  const auto param = [&](std::string_view fields) {
    const auto refused = plan_chat(with(kChat, std::string(fields)), *model, Limits{});
    BOOST_REQUIRE(!refused.ok());
    return refused.error().param;
  };
  BOOST_TEST(param(R"("chat_template_kwargs":[1])") == "chat_template_kwargs");
  BOOST_TEST(param(R"("chat_template_kwargs":{"messages":[]})") == "chat_template_kwargs.messages");
  BOOST_TEST(param(R"("chat_template_kwargs":{"tools":[]})") == "chat_template_kwargs.tools");
}

BOOST_AUTO_TEST_CASE(harmless_fields_are_taken_and_unknown_ones_are_listed) {
  const auto model = byte_model();
  const auto plan = plan_chat(with(kChat, R"("n":1,"tools":[],"tool_choice":"none","response_format":{"type":"text"},)"
                                          R"("suffix":null,"user":"u","metadata":{},"frobnicate":1,"best_of":null)"),
                              *model, Limits{});
  BOOST_REQUIRE(plan.ok());
  const std::vector<std::string> expected = {"suffix", "frobnicate"};
  BOOST_TEST(plan->options.unknown_fields == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_request_that_does_not_fit_the_context_says_the_numbers) {
  const auto model = byte_model();
  auto plan = plan_completion(with(kCompletion, R"("max_tokens":511)"), *model, Limits{});
  BOOST_REQUIRE(plan.ok());
  const auto error = fit_lengths(*plan, *model);
  BOOST_REQUIRE(error.has_value());
  BOOST_TEST(error->status == 400u);
  BOOST_TEST(error->code == "context_length_exceeded");
  BOOST_TEST(error->param == "prompt");
  BOOST_TEST(error->message.find("512") != std::string::npos);
  BOOST_TEST(error->message.find("513") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_text_without_tokens_is_refused) {
  const auto model = byte_model();
  BOOST_TEST(plan_completion(R"({"model":"m","prompt":""})", *model, Limits{}).error().param == "prompt");
  BOOST_TEST(plan_completion(R"({"model":"m","prompt":["a",""]})", *model, Limits{}).error().param == "prompt[1]");
}

BOOST_AUTO_TEST_CASE(without_max_tokens_a_chat_gets_the_rest_and_a_completion_sixteen) {
  const auto model = byte_model();
  auto chat = plan_chat("{" + kChat + "}", *model, Limits{});
  BOOST_REQUIRE(chat.ok());
  BOOST_REQUIRE(!fit_lengths(*chat, *model));
  BOOST_TEST(chat->prompts[0].max_tokens == 512 - chat->prompts[0].tokens.size());
  auto completion = plan_completion("{" + kCompletion + "}", *model, Limits{});
  BOOST_REQUIRE(completion.ok());
  BOOST_REQUIRE(!fit_lengths(*completion, *model));
  BOOST_TEST(completion->prompts[0].max_tokens == 16u);
}

BOOST_AUTO_TEST_CASE(a_model_without_a_tokenizer_takes_token_ids_only) {
  const auto model = id_model();
  BOOST_TEST(plan_completion("{" + kCompletion + "}", *model, Limits{}).error().param == "prompt");
  BOOST_TEST(plan_chat("{" + kChat + "}", *model, Limits{}).error().param == "messages");
  BOOST_TEST(plan_completion(R"({"model":"m","prompt":[1],"stop":"a"})", *model, Limits{}).error().param == "stop");
  const auto plan = plan_completion(R"({"model":"m","prompt":[[1,2],[3]]})", *model, Limits{});
  BOOST_REQUIRE(plan.ok());
  BOOST_TEST(plan->prompts.size() == 2u);
}

BOOST_AUTO_TEST_CASE(a_request_that_says_nothing_is_sampled_as_the_model_is_meant_to_be) {
  const auto model = std::make_shared<ServedModel>(*id_model());
  model->sampling = {.temperature = 0.0, .top_p = 0.5, .top_k = 7, .min_p = 0.1, .repetition_penalty = 1.5};
  const auto sampled = [&](const std::string& more) {
    const auto plan = plan_completion(R"({"model":"m","prompt":[1,2])" + more + "}", *model, Limits{});
    BOOST_REQUIRE(plan.ok());
    return generate_message(*plan, 0, 1, 0);
  };
  const auto usual = sampled("");
  const auto usual_reader = usual.read();
  BOOST_TEST(usual_reader->getSampling().getTemperature() == 0.0f);
  BOOST_TEST(usual_reader->getSampling().getTopP() == 0.5f);
  BOOST_TEST(usual_reader->getSampling().getTopK() == 7u);
  BOOST_TEST(usual_reader->getSampling().getMinP() == 0.1f);
  BOOST_TEST(usual_reader->getSampling().getRepetitionPenalty() == 1.5f);
  const auto said = sampled(R"(,"temperature":1,"top_p":1,"top_k":-1,"min_p":0,"repetition_penalty":1)");
  const auto said_reader = said.read();
  BOOST_TEST(said_reader->getSampling().getTemperature() == 1.0f);
  BOOST_TEST(said_reader->getSampling().getTopP() == 1.0f);
  BOOST_TEST(said_reader->getSampling().getTopK() == 0u);
  BOOST_TEST(said_reader->getSampling().getMinP() == 0.0f);
  BOOST_TEST(said_reader->getSampling().getRepetitionPenalty() == 1.0f);
}

BOOST_AUTO_TEST_CASE(choices_of_a_prompt_differ_in_their_seeds) {
  const auto model = id_model();
  const auto plan =
      plan_completion(R"({"model":"m","prompt":[[1,2],[3]],"n":3,"best_of":3,"seed":7})", *model, Limits{});
  BOOST_REQUIRE(plan.ok());
  BOOST_TEST(plan->choices() == 6u);
  for (const std::size_t choice : {0u, 2u, 3u, 5u}) {
    const auto message = generate_message(*plan, choice, 40 + choice, 0);
    const auto generate = message.read();
    BOOST_TEST(generate->getTokens().size() == (choice < 3 ? 2u : 1u));
    BOOST_TEST(generate->getSampling().getSeed() == 7 + choice % 3);
    BOOST_TEST(generate->getRequest() == 40 + choice);
    BOOST_TEST(generate->getSiblings() == 5 - choice);
    BOOST_TEST(generate->getSiblingTokens() == (choice < 3 ? 2 * (2 - choice) + 3 : 5 - choice));
  }
}

BOOST_AUTO_TEST_CASE(a_token_that_is_part_of_a_character_is_named_by_its_bytes) {
  const auto model = byte_model();
  BOOST_TEST(model->token_name('a') == "a");
  BOOST_TEST(model->token_name(0xc3) == "bytes:\\xc3");
  BOOST_TEST(id_model()->token_name(7) == "token_id:7");
}

BOOST_AUTO_TEST_SUITE_END()

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/text/jinja/value.h"

namespace troupe::text::jinja {

// Statements within statements, and operations within operations, go no deeper.
inline constexpr std::uint32_t kMaxSyntaxDepth = 128;

struct Expression {
  enum class Kind {
    kConstant,     // value
    kName,         // name
    kList,         // children: items
    kTuple,        // the same
    kDict,         // children: key, value, key, value, ...
    kMember,       // children[0] . name
    kSubscript,    // children[0] [ children[1] ]
    kSlice,        // children[0] [ children[1] : children[2] : children[3] ]; constants of none where left out
    kCall,         // children[0] ( the other children, of which the last names.size() are named )
    kFilter,       // children[0] | name ( the same )
    kTest,         // children[0] is name ( the same )
    kNot,          // children[0]
    kNegative,     // children[0]
    kAnd,          // children[0], children[1]
    kOr,           // the same
    kConditional,  // children[1] if children[0] else children[2], which may be missing
    kOperation,    // children[0] name children[1]: + - * / // % ** ~
    kComparison,   // children[0], then an operator of `names` before each other child: == != < <= > >= in, not in
  };

  Kind kind = Kind::kConstant;
  std::uint32_t line = 0;
  std::uint32_t depth = 1;
  Value value;
  std::string name;
  std::vector<std::string> names;
  std::vector<Expression> children;
};

struct Statement {
  enum class Kind {
    kText,      // name: what is printed
    kOutput,    // expressions[0]
    kIf,        // branches: expressions[i] with bodies[i]; one body more is that of else
    kFor,       // targets in expressions[0], which are left out unless expressions[1]; bodies[0], else bodies[1]
    kSet,       // targets = expressions[0]; or name . targets[0] = expressions[0]
    kSetBlock,  // targets[0] = what bodies[0] prints, through the filters of expressions[0] if it is there
    kFilter,    // prints what bodies[0] prints, through the filters of expressions[0]
    kMacro,     // name ( targets, of which the last expressions.size() have defaults ): bodies[0]
    kBlock,     // bodies[0] as it is ({% generation %})
    kBreak,
    kContinue,
  };

  Kind kind = Kind::kText;
  std::uint32_t line = 0;
  std::string name;
  std::vector<std::string> targets;
  std::vector<Expression> expressions;
  std::vector<std::vector<Statement>> bodies;
};

// What Callable refers to.
struct Macro {
  const Statement* definition = nullptr;
};

}  // namespace troupe::text::jinja

// What the host passes to kernels: op codes and structs, in C++ that NVRTC and g++ both read.
//
// The host includes this inside a namespace of its own, so that no name here meets one of OneFlow.
#pragma once

typedef long long int64;

enum { MAX_AXES = 8, MAX_SOURCES = 16 };

// A shape, and for an index into it the offsets into two tensors of other strides. A stride of 0
// repeats an element.
struct Strides {
  int axes;
  int64 size[MAX_AXES], a[MAX_AXES], b[MAX_AXES];
};

struct Sources {
  int count;
  const void* at[MAX_SOURCES];
};

// Settings of AdamW's update: a pointer, where it is not null, stands for the number beside it.
struct AdamSettings {
  float rate, rate_scale, weight_decay, beta1, beta2, epsilon, correction1, correction2;
  float scale, l1, l2;
  const float *rate_at, *correction1_at, *correction2_at, *scale_at;
  const int64* skip_if;  // the update is left out where this is not 0
};

enum UnaryCode {
  UNARY_IDENTITY, UNARY_RELU, UNARY_GELU, UNARY_FAST_GELU, UNARY_QUICK_GELU, UNARY_SILU,
  UNARY_SIGMOID, UNARY_TANH, UNARY_ABS, UNARY_CEIL, UNARY_FLOOR, UNARY_ROUND, UNARY_TRUNC,
  UNARY_SIGN, UNARY_NEGATIVE, UNARY_RECIPROCAL, UNARY_SQUARE, UNARY_SQRT, UNARY_RSQRT, UNARY_EXP,
  UNARY_EXPM1, UNARY_LOG, UNARY_LOG2, UNARY_LOG10, UNARY_LOG1P, UNARY_SIN, UNARY_COS, UNARY_ERF,
  UNARY_ERFC, UNARY_ERFINV, UNARY_SOFTPLUS,
};

enum QuestionCode {
  QUESTION_NOT, QUESTION_IS_NAN, QUESTION_IS_INF, QUESTION_IS_FINITE, QUESTION_NOT_ZERO,
};

enum ArithmeticCode {
  ARITHMETIC_ADD, ARITHMETIC_SUB, ARITHMETIC_MUL, ARITHMETIC_DIV, ARITHMETIC_MAX, ARITHMETIC_MIN,
};

// The gradients take dy first, then the operand: x, or y where the name says so.
enum SpecialCode {
  SPECIAL_POW, SPECIAL_FMOD, SPECIAL_FLOOR_DIV, SPECIAL_TRUNC_DIV, SPECIAL_FLOOR_MOD,
  SPECIAL_BASE_POWER_GRAD, SPECIAL_EXPONENT_POWER_GRAD, SPECIAL_GELU_GRAD,
  SPECIAL_FAST_GELU_GRAD, SPECIAL_QUICK_GELU_GRAD, SPECIAL_SILU_GRAD, SPECIAL_RELU_GRAD_OF_Y,
  SPECIAL_SIGMOID_GRAD_OF_Y, SPECIAL_SIGMOID_GRAD, SPECIAL_TANH_GRAD, SPECIAL_ABS_GRAD,
  SPECIAL_RECIPROCAL_GRAD, SPECIAL_SQUARE_GRAD, SPECIAL_SQRT_GRAD, SPECIAL_RSQRT_GRAD,
  SPECIAL_EXP_GRAD, SPECIAL_EXPM1_GRAD, SPECIAL_LOG_GRAD, SPECIAL_LOG2_GRAD, SPECIAL_LOG10_GRAD,
  SPECIAL_LOG1P_GRAD, SPECIAL_SIN_GRAD, SPECIAL_COS_GRAD, SPECIAL_ERF_GRAD, SPECIAL_ERFC_GRAD,
  SPECIAL_SOFTPLUS_GRAD,
};

enum ComparisonCode {
  COMPARISON_EQUAL, COMPARISON_NOT_EQUAL, COMPARISON_LESS, COMPARISON_LESS_EQUAL,
  COMPARISON_GREATER, COMPARISON_GREATER_EQUAL, COMPARISON_AND, COMPARISON_OR, COMPARISON_XOR,
};
